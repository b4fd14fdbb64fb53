use std::time::Instant;
use wordkiln_decode::{Batch, Sampler, SamplingParams, rng};
fn logits(b: usize, v: usize) -> Vec<f32> {
    let mut z: Vec<f32> = (0..b * v)
        .map(|i| {
            let [a, c] = rng::uniforms(1, i as u64);
            ((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * c).cos() * 2.5) as f32
        })
        .collect();
    for r in 0..b {
        for j in 0..40 {
            let id = (rng::uniforms(2, (r * 40 + j) as u64)[0] * v as f64) as usize;
            z[r * v + id] = 12.0 - 10.0 * j as f32 / 39.0;
        }
    }
    z
}
fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let base = SamplingParams { temperature: 0.8, ..Default::default() };
    let which = std::env::args().nth(1).unwrap_or_default();
    let sets = [
        ("greedy", SamplingParams { temperature: 0.0, ..base.clone() }),
        ("k50 p.95", SamplingParams { top_k: 50, top_p: 0.95, ..base.clone() }),
        (
            "full6",
            SamplingParams {
                top_k: 50,
                top_p: 0.95,
                min_p: 0.05,
                repetition_penalty: 1.1,
                no_repeat_ngram: 3,
                ..base.clone()
            },
        ),
        ("p.95", SamplingParams { top_p: 0.95, ..base.clone() }),
        ("typ.9", SamplingParams { typical_p: 0.9, ..base.clone() }),
        ("minp.05", SamplingParams { min_p: 0.05, ..base.clone() }),
        ("draw", base.clone()),
    ];
    for v in [32000, 50257, 151936] {
        for b in [1, 8, 64] {
            let z = logits(b, v);
            for (name, params) in &sets {
                if !which.is_empty() && !name.starts_with(&which) {
                    continue;
                }
                let rows: Vec<_> = (0..b as u64).map(|seed| SamplingParams { seed, ..params.clone() }).collect();
                let mut s = Sampler::new(&rows, v).unwrap();
                let prompt: Vec<u32> = (0..576).map(|i| (i * 37 % v) as u32).collect();
                for r in 0..b {
                    s.add_prompt(r, &prompt).unwrap();
                }
                let mut times = Vec::new();
                let begin = Instant::now();
                while begin.elapsed().as_millis() < 120 || times.len() < 5 {
                    let t = Instant::now();
                    s.sample(&Batch {
                        pool: if b > 1 && std::env::var("ALONE").is_err() { Some(&pool) } else { None },
                        ..Batch::new(&z)
                    })
                    .unwrap();
                    times.push(t.elapsed().as_nanos() as f64 / 1000.0 / b as f64);
                }
                times.sort_by(f64::total_cmp);
                println!("V {v:6} B {b:2} {name:10} {:8.2} us/row", times[times.len() / 2]);
            }
        }
    }
}
