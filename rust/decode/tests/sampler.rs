//! The sampler as its users see it: tables of probabilities, ties, errors, independence of rows.

use wordkiln_decode::{Batch, Fault, Logits, Sampler, SamplerError, SamplingParams};

const NONE: f32 = f32::NEG_INFINITY;

fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|probability| probability.ln()).collect()
}

/// The tokens that 200 draws give, each once.
fn reachable(probabilities: &[f32], params: SamplingParams) -> Vec<i32> {
    let logits = logits_of(probabilities);
    let mut sampler = Sampler::new(std::slice::from_ref(&params), logits.len()).unwrap();
    let mut ids: Vec<i32> = (0..200).map(|_| sampler.sample(&Batch::new(&logits)).unwrap()[0].id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn ids(sampler: &mut Sampler, logits: &[f32]) -> Vec<i32> {
    sampler.sample(&Batch::new(logits)).unwrap().iter().map(|choice| choice.id).collect()
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
        assert_eq!(sampler.sample(&Batch::new(&bad)), Err(SamplerError::Logits { row: 1, fault }));
        assert_eq!(ids(&mut sampler, &good), ids(&mut untouched, &good));
    }
}

#[test]
fn bad_settings_name_row_and_field() {
    let good = SamplingParams::default;
    let table = [
        (
            SamplingParams { temperature: -0.1, ..good() },
            "temperature=-0.1 of row 1: must be a finite number, 0 or more",
        ),
        (
            SamplingParams { temperature: f64::NAN, ..good() },
            "temperature=NaN of row 1: must be a finite number, 0 or more",
        ),
        (SamplingParams { top_p: 1.5, ..good() }, "top_p=1.5 of row 1: must be 0 to 1"),
        (SamplingParams { top_p: f64::NAN, ..good() }, "top_p=NaN of row 1: must be 0 to 1"),
        (
            SamplingParams { repetition_penalty: 0.0, ..good() },
            "repetition_penalty=0 of row 1: must be a finite number above 0",
        ),
        (
            SamplingParams { banned_ids: vec![0, 4], ..good() },
            "banned_ids[1]=4 of row 1: must be below the vocabulary's size, 4",
        ),
    ];
    for (bad, message) in table {
        assert_eq!(Sampler::new(&[good(), bad], 4).unwrap_err().to_string(), message);
    }
    assert_eq!(Sampler::new(&[good()], 0).unwrap_err(), SamplerError::VocabSize { vocab_size: 0 });
}

#[test]
fn a_row_is_the_same_in_every_batch_and_on_every_thread_count() {
    let vocab_size = 20_000;
    let settings = |seed| SamplingParams {
        seed,
        temperature: 0.8 + seed as f64 * 0.1,
        top_k: if seed % 2 == 0 { 0 } else { 50 },
        top_p: 0.9,
        ..Default::default()
    };
    let params: Vec<_> = (0..6).map(settings).collect();
    let row: Vec<f32> = (0..vocab_size).map(|id| ((id * 7919) % 1009) as f32 / 100.0).collect();
    let batch = row.repeat(6);
    let mut together = Sampler::new(&params, vocab_size).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut alone: Vec<_> =
        params.iter().map(|params| Sampler::new(std::slice::from_ref(params), vocab_size).unwrap()).collect();
    for _ in 0..10 {
        let expected: Vec<i32> = alone.iter_mut().map(|sampler| ids(sampler, &row)[0]).collect();
        let batch = Batch { pool: Some(&pool), ..Batch::new(&batch) };
        let chosen: Vec<i32> = together.sample(&batch).unwrap().iter().map(|choice| choice.id).collect();
        assert_eq!(chosen, expected);
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
    let logits = logits_of(&probabilities);
    let choice = sampler.sample(&Batch { log_probabilities: true, ..Batch::new(&logits) }).unwrap()[0];
    assert_eq!(choice.id, 1);
    // float32 logits and weights: a few units of 6e-8.
    assert!((choice.log_probability - 0.4_f32.ln()).abs() < 1e-6);
}

#[test]
fn stages_and_edits_that_keep_some() {
    let base = SamplingParams::default;
    // Of 0.1, 0.4, 0.2, 0.3: logits -2.30, -0.92, -1.61, -1.20; their mean -1.51, their standard deviation 0.52.
    let table: [(SamplingParams, &[i32]); 17] = [
        (SamplingParams { min_p: 0.7, ..base() }, &[1, 3]),
        (SamplingParams { min_p: 1.0, ..base() }, &[1]),
        (SamplingParams { min_p: 0.1, ..base() }, &[0, 1, 2, 3]),
        (SamplingParams { top_n_sigma: 1.0, ..base() }, &[1, 3]),
        (SamplingParams { top_n_sigma: 2.0, ..base() }, &[1, 2, 3]),
        // The entropy is 1.28: by distance of surprise from it 3 (0.08), 2 (0.33), 1 (0.36), 0 (1.02).
        (SamplingParams { typical_p: 0.0, ..base() }, &[3]),
        (SamplingParams { typical_p: 0.4, ..base() }, &[2, 3]),
        (SamplingParams { typical_p: 0.6, ..base() }, &[1, 2, 3]),
        (SamplingParams { xtc_probability: 1.0, xtc_threshold: 0.15, ..base() }, &[0, 2]),
        (SamplingParams { xtc_probability: 1.0, xtc_threshold: 0.35, ..base() }, &[0, 1, 2, 3]),
        (SamplingParams { xtc_probability: 1.0, xtc_threshold: 0.0, ..base() }, &[0]),
        // Surprises in bits: 3.32, 1.32, 2.32, 1.74; the limit is twice tau.
        (SamplingParams { mirostat_tau: 0.9, mirostat_eta: 0.0, ..base() }, &[1, 3]),
        (SamplingParams { mirostat_tau: 0.1, mirostat_eta: 0.0, ..base() }, &[1]),
        (SamplingParams { banned_ids: vec![1, 2], ..base() }, &[0, 3]),
        (SamplingParams { bad_words_ids: vec![vec![3]], ..base() }, &[0, 1, 2]),
        (SamplingParams { logit_bias: vec![(0, 100.0)], ..base() }, &[0]),
        (SamplingParams { min_new_tokens: 1000, end_ids: vec![1, 3], ..base() }, &[0, 2]),
    ];
    for (params, expected) in table {
        assert_eq!(reachable(&[0.1, 0.4, 0.2, 0.3], params.clone()), expected, "{params:?}");
    }
}

#[test]
fn forced_ids_come_first_and_a_mask_holds() {
    let params = SamplingParams { forced_ids: vec![3, 0], temperature: 0.0, ..Default::default() };
    let mut sampler = Sampler::new(&[params], 4).unwrap();
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    let masked = |mask| Batch { masks: Some(mask), ..Batch::new(&logits) };
    let fault = Err(SamplerError::Logits { row: 0, fault: Fault::Forced { id: 3 } });
    assert_eq!(sampler.sample(&masked(&[0b0111])), fault);
    assert_eq!([ids(&mut sampler, &logits)[0], ids(&mut sampler, &logits)[0]], [3, 0]);
    assert_eq!(sampler.sample(&masked(&[0b1101])).unwrap()[0].id, 3);
    assert_eq!(sampler.sample(&masked(&[0])), Err(SamplerError::Logits { row: 0, fault: Fault::Banned }));
    assert!(matches!(sampler.sample(&masked(&[1, 1])), Err(SamplerError::Shape { given: 2, expected: 1 })));
}

#[test]
fn partial_sampling_goes_on_where_it_can() {
    let params: Vec<_> = (0..3).map(|seed| SamplingParams { seed, ..Default::default() }).collect();
    let mut sampler = Sampler::new(&params, 4).unwrap();
    let mut whole = sampler.clone();
    let good = logits_of(&[0.25; 12]);
    let mut bad = good.clone();
    bad[6] = f32::NAN;
    let expected = ids(&mut whole, &good);
    let outcomes = sampler.sample_partial(&Batch::new(&bad)).unwrap().to_vec();
    assert_eq!(outcomes[1], Err(Fault::Nan { id: 2 }));
    assert_eq!([outcomes[0].unwrap().id, outcomes[2].unwrap().id], [expected[0], expected[2]]);
    assert_eq!(sampler.steps().collect::<Vec<_>>(), [1, 0, 1]);
}

#[test]
fn all_number_formats_choose_alike() {
    // Small multiples of a half are exact in all three.
    let logits: Vec<f32> = (0..300).map(|id| ((id * 37) % 41) as f32 / 2.0 - 8.0).collect();
    let bfloat16: Vec<u16> = logits.iter().map(|logit| (logit.to_bits() >> 16) as u16).collect();
    let float16: Vec<u16> = logits.iter().map(|&logit| half(logit)).collect();
    let params = SamplingParams { top_k: 60, banned_ids: vec![7], logprobs: 3, ..Default::default() };
    let chosen = |logits| {
        let mut sampler = Sampler::new(std::slice::from_ref(&params), 300).unwrap();
        let batch = Batch { logits, log_probabilities: true, ..Batch::new(&[]) };
        let ids: Vec<_> = (0..50).map(|_| sampler.sample(&batch).unwrap()[0]).collect();
        (ids, sampler.top().next().unwrap().to_vec())
    };
    let expected = chosen(Logits::Float32(&logits));
    assert_eq!(chosen(Logits::Bfloat16(&bfloat16)), expected);
    assert_eq!(chosen(Logits::Float16(&float16)), expected);
    assert_eq!(expected.1.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [31, 72, 113]);
}

/// Exact for what the test above needs: no rounding, no subnormal number.
fn half(value: f32) -> u16 {
    if value == 0.0 {
        return 0;
    }
    let bits = value.to_bits();
    ((bits >> 16 & 0x8000) + (((bits & 0x7FFF_FFFF) - ((127 - 15) << 23)) >> 13)) as u16
}
