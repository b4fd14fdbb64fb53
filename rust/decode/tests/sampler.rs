//! The sampler as its users see it: tables of probabilities, ties, errors, independence of rows.

use wordkiln_decode::{Fault, Sampler, SamplerError, SamplingParams};

const NONE: f32 = f32::NEG_INFINITY;

fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|probability| probability.ln()).collect()
}

/// The tokens that 200 draws give, each once.
fn reachable(probabilities: &[f32], params: SamplingParams) -> Vec<i32> {
    let logits = logits_of(probabilities);
    let mut sampler = Sampler::new(&[params], logits.len()).unwrap();
    let mut ids: Vec<i32> = (0..200).map(|_| sampler.sample(&logits, false).unwrap()[0].id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn ids(sampler: &mut Sampler, logits: &[f32]) -> Vec<i32> {
    sampler.sample(logits, false).unwrap().iter().map(|choice| choice.id).collect()
}

#[test]
fn top_k_keeps_the_most_probable() {
    let probabilities = [0.1, 0.4, 0.2, 0.3];
    let table: [(usize, &[i32]); 6] =
        [(1, &[1]), (2, &[1, 3]), (3, &[1, 2, 3]), (4, &[0, 1, 2, 3]), (0, &[0, 1, 2, 3]), (99, &[0, 1, 2, 3])];
    for (top_k, expected) in table {
        assert_eq!(reachable(&probabilities, SamplingParams { top_k, ..Default::default() }), expected, "{top_k}");
    }
}

#[test]
fn top_p_keeps_the_shortest_run_that_reaches_it() {
    let probabilities = [0.1, 0.4, 0.2, 0.3];
    let table: [(f64, &[i32]); 7] = [
        (0.0, &[1]),
        (0.39, &[1]),
        (0.41, &[1, 3]),
        (0.69, &[1, 3]),
        (0.71, &[1, 2, 3]),
        (0.95, &[0, 1, 2, 3]),
        (1.0, &[0, 1, 2, 3]),
    ];
    for (top_p, expected) in table {
        assert_eq!(reachable(&probabilities, SamplingParams { top_p, ..Default::default() }), expected, "{top_p}");
    }
}

#[test]
fn top_p_counts_what_top_k_left() {
    // Of 0.4 and 0.3 the first has 0.57.
    let params = SamplingParams { top_k: 2, top_p: 0.5, ..Default::default() };
    assert_eq!(reachable(&[0.1, 0.4, 0.2, 0.3], params), [1]);
}

#[test]
fn top_p_counts_after_temperature() {
    // At temperature 0.5 probabilities are squared: 0.16 of 0.30 is 0.53.
    let params = SamplingParams { temperature: 0.5, top_p: 0.5, ..Default::default() };
    assert_eq!(reachable(&[0.1, 0.4, 0.2, 0.3], params), [1]);
}

#[test]
fn ties_go_to_the_lowest_id() {
    let equal = [0.25; 4];
    assert_eq!(reachable(&equal, SamplingParams { temperature: 0.0, ..Default::default() }), [0]);
    assert_eq!(reachable(&equal, SamplingParams { top_k: 2, ..Default::default() }), [0, 1]);
    assert_eq!(reachable(&equal, SamplingParams { top_p: 0.6, ..Default::default() }), [0, 1, 2]);
    let signed_zeros = [-0.0, 0.0];
    let mut greedy = Sampler::new(&[SamplingParams { temperature: 0.0, ..Default::default() }], 2).unwrap();
    assert_eq!(ids(&mut greedy, &signed_zeros), [0]);
}

#[test]
fn extreme_temperatures_and_logits() {
    for temperature in [1e-45, 1e-300, 1.0, 1e30, f64::MAX] {
        let params = SamplingParams { temperature, top_p: 0.9, ..Default::default() };
        let mut sampler = Sampler::new(&[params], 4).unwrap();
        for _ in 0..50 {
            let id = ids(&mut sampler, &[NONE, f32::MAX, f32::MIN, f32::MAX])[0];
            assert!(id == 1 || id == 3 || temperature > 1e29 && id == 2, "{temperature}: {id}");
        }
    }
}

#[test]
fn a_masked_token_is_never_chosen() {
    let mut logits = vec![NONE; 300];
    logits[170] = -50.0;
    for params in [
        SamplingParams::default(),
        SamplingParams { top_k: 5, ..Default::default() },
        SamplingParams { top_k: 100, top_p: 0.99, ..Default::default() },
        SamplingParams { temperature: 0.0, ..Default::default() },
    ] {
        let mut sampler = Sampler::new(&[params], 300).unwrap();
        assert_eq!(ids(&mut sampler, &logits), [170]);
    }
}

#[test]
fn a_faulty_row_is_named_and_the_others_lose_nothing() {
    let params: Vec<_> = (0..3).map(|seed| SamplingParams { seed, ..Default::default() }).collect();
    let good = logits_of(&[0.25; 12]);
    let table = [(f32::NAN, Fault::Nan { id: 2 }), (f32::INFINITY, Fault::Infinite { id: 2 }), (NONE, Fault::Empty)];
    for (value, fault) in table {
        let mut sampler = Sampler::new(&params, 4).unwrap();
        let mut untouched = sampler.clone();
        let mut bad = good.clone();
        bad[4..8].fill(if value == NONE { NONE } else { 0.0 });
        bad[6] = value;
        assert_eq!(sampler.sample(&bad, false), Err(SamplerError::Logits { row: 1, fault }));
        assert_eq!(ids(&mut sampler, &good), ids(&mut untouched, &good));
    }
}

#[test]
fn bad_settings_name_row_and_field() {
    let good = SamplingParams::default();
    let table = [
        (SamplingParams { temperature: -0.1, ..good }, "temperature=-0.1 of row 1: must be a finite number, 0 or more"),
        (
            SamplingParams { temperature: f64::NAN, ..good },
            "temperature=NaN of row 1: must be a finite number, 0 or more",
        ),
        (SamplingParams { top_p: 1.5, ..good }, "top_p=1.5 of row 1: must be 0 to 1"),
        (SamplingParams { top_p: f64::NAN, ..good }, "top_p=NaN of row 1: must be 0 to 1"),
    ];
    for (bad, message) in table {
        assert_eq!(Sampler::new(&[good, bad], 4).unwrap_err().to_string(), message);
    }
    assert_eq!(Sampler::new(&[good], 0).unwrap_err(), SamplerError::VocabSize { vocab_size: 0 });
}

#[test]
fn a_row_is_the_same_in_every_batch_and_on_every_thread_count() {
    let vocab_size = 20_000;
    let settings = |seed| SamplingParams {
        seed,
        temperature: 0.8 + seed as f64 * 0.1,
        top_k: if seed % 2 == 0 { 0 } else { 50 },
        top_p: 0.9,
    };
    let params: Vec<_> = (0..6).map(settings).collect();
    let row: Vec<f32> = (0..vocab_size).map(|id| ((id * 7919) % 1009) as f32 / 100.0).collect();
    let batch = row.repeat(6);
    let mut together = Sampler::new(&params, vocab_size).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut alone: Vec<_> = params.iter().map(|params| Sampler::new(&[*params], vocab_size).unwrap()).collect();
    for _ in 0..10 {
        let expected: Vec<i32> = alone.iter_mut().map(|sampler| ids(sampler, &row)[0]).collect();
        assert_eq!(pool.install(|| ids(&mut together, &batch)), expected);
    }
}

#[test]
fn selected_rows_go_on_where_they_were() {
    let params: Vec<_> = (0..4).map(|seed| SamplingParams { seed, ..Default::default() }).collect();
    let row = logits_of(&[0.1; 10]);
    let mut all = Sampler::new(&params, 10).unwrap();
    ids(&mut all, &row.repeat(4));
    for selected in [vec![1, 3], vec![3, 0, 0], vec![]] {
        let mut some = all.clone();
        some.select(&selected).unwrap();
        let full = ids(&mut all.clone(), &row.repeat(4));
        let expected: Vec<i32> = selected.iter().map(|&index| full[index]).collect();
        assert_eq!(ids(&mut some, &row.repeat(selected.len())), expected);
    }
    assert_eq!(all.select(&[4]), Err(SamplerError::NoSuchRow { row: 4, rows: 4 }));
    assert_eq!(all.len(), 4);
}

#[test]
fn log_probabilities_are_those_of_the_logits_as_given() {
    let probabilities = [0.1_f32, 0.4, 0.2, 0.3];
    let params = SamplingParams { temperature: 0.3, top_k: 1, ..Default::default() };
    let mut sampler = Sampler::new(&[params], 4).unwrap();
    let choice = sampler.sample(&logits_of(&probabilities), true).unwrap()[0];
    assert_eq!(choice.id, 1);
    // float32 logits and weights: a few units of 6e-8.
    assert!((choice.log_probability - 0.4_f32.ln()).abs() < 1e-6);
}
