//! Beam search as its users see it: nothing allocated per step, a failed step changes nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use wordkiln_decode::rng::uniforms;
use wordkiln_decode::{BeamError, BeamParams, BeamSearch, Fault};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Logits from 0 to 8, others in each step.
fn logits(step: u64, rows: usize, vocab_size: usize) -> Vec<f32> {
    (0..rows * vocab_size).map(|place| uniforms(step, place as u64)[0] as f32 * 8.0).collect()
}

fn search(params: BeamParams, prompts: usize, vocab_size: usize) -> BeamSearch {
    let prompts = vec![vec![0, 1, 2]; prompts];
    BeamSearch::new(params, prompts, vec![], vocab_size).unwrap()
}

#[test]
fn a_step_allocates_nothing() {
    let params = BeamParams {
        num_beams: 6,
        num_beam_groups: 2,
        diversity_penalty: 0.5,
        no_repeat_ngram_size: 3,
        min_new_tokens: 100,
        end_ids: vec![5],
        bad_words: vec![vec![7], vec![8, 9]],
        ..Default::default()
    };
    let mut search = search(params, 3, 700);
    // The buffers take their sizes in the first steps; a row's text, which n-grams need, doubles its own at 4, 8, 16.
    for step in 0..30 {
        let logits = logits(step, search.rows(), 700);
        let before = ALLOCATIONS.get();
        search.step(&logits, None, None).unwrap();
        assert!(step < 20 || ALLOCATIONS.get() == before, "step {step}");
    }
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let mut search = search(BeamParams { num_beams: 3, num_return: 3, max_new_tokens: 4, ..Default::default() }, 2, 50);
    let mut other = search.clone();
    for step in 0..4 {
        let good = logits(step, search.rows(), 50);
        let mut bad = good.clone();
        bad[50 + 7] = f32::NAN;
        let prompt = if step == 0 { 1 } else { 0 };
        let expected = BeamError::Logits { row: 1, prompt, fault: Fault::Nan { id: 7 } };
        assert_eq!(search.step(&bad, None, None), Err(expected));
        let expected = BeamError::NoToken { prompt: 0, written: step as usize };
        assert_eq!(search.step(&good, Some(&vec![0; search.rows() * 2]), None), Err(expected));
        assert_eq!(search.step(&good[1..], None, None).map_err(|error| error.to_string().len() > 20), Err(true));
        assert!(search.step(&good, Some(&[0]), None).is_err());
        search.step(&good, None, None).unwrap();
        other.step(&good, None, None).unwrap();
    }
    assert_eq!(search.hypotheses(), other.hypotheses());
    assert_eq!((search.rows(), search.hypotheses()[1].len()), (0, 3));
    assert_eq!(search.step(&[], None, None), Ok(()));
}

#[test]
fn masks_let_nothing_else_come() {
    let mut search = search(BeamParams { num_beams: 2, num_return: 2, max_new_tokens: 3, ..Default::default() }, 1, 70);
    let even = [0x5555_5555, 0x5555_5555, 0x5555_5555];
    for step in 0..3 {
        let logits = logits(step, search.rows(), 70);
        search.step(&logits, Some(&even.repeat(search.rows())), None).unwrap();
    }
    let ids: Vec<u32> = search.hypotheses().concat().into_iter().flat_map(|text| text.ids).collect();
    assert!(ids.len() == 6 && ids.iter().all(|id| id % 2 == 0), "{ids:?}");
}
