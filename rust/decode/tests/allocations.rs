//! After its first step a sampler works in the memory it has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use wordkiln_decode::{Batch, Logits, Sampler, SamplingParams};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn later_steps_allocate_nothing() {
    let base = || SamplingParams { logprobs: 5, ..Default::default() };
    let params = [
        SamplingParams { temperature: 0.0, ..base() },
        SamplingParams { top_k: 40, min_p: 0.01, ..base() },
        SamplingParams { top_p: 0.9, banned_ids: vec![3], ..base() },
        SamplingParams { typical_p: 0.9, xtc_probability: 1.0, ..base() },
        SamplingParams { top_n_sigma: 2.0, mirostat_tau: 3.0, logit_bias: vec![(7, 1.0)], ..base() },
    ];
    let vocab_size = 5000;
    let logits: Vec<f32> = (0..params.len() * vocab_size).map(|id| ((id * 7919) % 1009) as f32 / 100.0).collect();
    let bits: Vec<u16> = logits.iter().map(|logit| (logit.to_bits() >> 16) as u16).collect();
    let masks = vec![u32::MAX; params.len() * vocab_size.div_ceil(32)];
    let mut sampler = Sampler::new(&params, vocab_size).unwrap();
    let mut step = || {
        for logits in [Logits::Float32(&logits), Logits::Bfloat16(&bits)] {
            for masks in [None, Some(&masks[..])] {
                sampler.sample(&Batch { logits, masks, log_probabilities: true, pool: None }).unwrap();
            }
        }
    };
    // What is kept differs from draw to draw: a few steps until each buffer has its size.
    (0..20).for_each(|_| step());
    let before = COUNT.load(Ordering::Relaxed);
    (0..20).for_each(|_| step());
    assert_eq!(COUNT.load(Ordering::Relaxed), before);
}
