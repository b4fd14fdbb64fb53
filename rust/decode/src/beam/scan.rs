//! One row of logits: its normaliser, and its highest tokens without sorting the vocabulary. One pass over memory.

use std::f32::consts::LOG2_E;

use crate::error::Fault;
use crate::exp::exp2;
use crate::kernels::{self, BLOCK};

/// Blocks of a chunk: what is summarised twice while it lies in the first cache.
const CHUNK_BLOCKS: usize = 64;
const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// Blocks of a group, whose common maximum is what a bound is made of.
const GROUP_BLOCKS: usize = 16;

/// What the next token may be.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// This one, if all masks allow it.
    Forced(u32),
    /// All but these, a few, in ascending order.
    AllBut(&'a [u32]),
}

/// The summary of a row, and its buffers.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Log of the sum of exp over the whole row: logit - log_total is a token's log-probability.
    pub log_total: f64,
    /// The highest logit of each group of blocks, of allowed tokens.
    pub tops: Vec<f32>,
    block_max: Vec<f32>,
    /// The tokens that all masks allow; empty where there is no mask.
    mask: Vec<u32>,
}

impl Scan {
    /// Reads the row once: the normaliser, and the highest logits of its parts. `masks` have bit i % 32 of word i / 32 set
    /// where token i may come.
    pub fn summarise(&mut self, logits: &[f32], masks: [Option<&[u32]>; 2]) -> Result<(), Fault> {
        self.read(logits)?;
        self.restrict(logits, masks);
        self.tops.clear();
        self.tops.extend(self.block_max.chunks(GROUP_BLOCKS).map(highest_of));
        Ok(())
    }

    /// The tokens of `choice` whose logit is at least `bound` and not -inf, in no order that matters.
    pub fn tokens_from<'a>(
        &'a self,
        logits: &'a [f32],
        bound: f32,
        choice: Choice<'a>,
    ) -> impl Iterator<Item = (u32, f32)> + 'a {
        let (forced, banned) = match choice {
            Choice::Forced(token) => (Some(token as usize), &[][..]),
            Choice::AllBut(banned) => (None, banned),
        };
        let groups = self.tops.iter().zip(self.block_max.chunks(GROUP_BLOCKS)).zip((0..).step_by(GROUP_BLOCKS));
        let high = groups
            .filter(move |&((&top, _), _)| top >= bound)
            .flat_map(|((_, of_group), first)| of_group.iter().zip(first..));
        let high = high.filter(move |&(&max, block)| max >= bound && forced.is_none_or(|token| token / BLOCK == block));
        let tokens = high.flat_map(move |(_, block)| {
            let block = block * BLOCK;
            logits[block..].iter().take(BLOCK).zip(block as u32..).map(|(&logit, id)| (id, logit))
        });
        tokens.filter(move |&(id, logit)| {
            logit >= bound
                && logit > f32::NEG_INFINITY
                && forced.is_none_or(|token| token == id as usize)
                && (self.mask.is_empty() || has(&self.mask, id))
                && banned.binary_search(&id).is_err()
        })
    }

    fn read(&mut self, logits: &[f32]) -> Result<(), Fault> {
        let block_max = &mut self.block_max;
        block_max.resize(logits.len().div_ceil(BLOCK), 0.0);
        let (mut highest, mut mass) = (f32::NEG_INFINITY, 0.0);
        for (chunk, block_max) in logits.chunks(CHUNK).zip(block_max.chunks_mut(CHUNK_BLOCKS)) {
            if kernels::maxima(chunk, block_max) {
                return Err(Fault::Nan { id: position(logits, |logit| logit.is_nan()) });
            }
            let top = highest_of(block_max);
            if top == f32::INFINITY {
                return Err(Fault::Infinite { id: position(logits, |logit| logit == f32::INFINITY) });
            }
            if top > f32::NEG_INFINITY {
                let sum = kernels::mass(chunk, top);
                let rise = f64::from(exp2((highest - top).min(0.0) * LOG2_E));
                let fall = f64::from(exp2((top - highest).min(0.0) * LOG2_E));
                (highest, mass) = (highest.max(top), mass * rise + sum * fall);
            }
        }
        if highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        self.log_total = f64::from(highest) + mass.ln();
        Ok(())
    }

    /// Makes the blocks' maxima those of the tokens that all masks allow.
    fn restrict(&mut self, logits: &[f32], masks: [Option<&[u32]>; 2]) {
        let Self { block_max, mask, .. } = self;
        mask.clear();
        for other in masks.into_iter().flatten() {
            if mask.is_empty() {
                mask.extend_from_slice(other);
            } else {
                mask.iter_mut().zip(other).for_each(|(word, other)| *word &= other);
            }
        }
        if !mask.is_empty() {
            kernels::allowed_maxima(logits, mask, block_max);
        }
    }
}

fn has(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

fn position(logits: &[f32], found: impl Fn(f32) -> bool) -> usize {
    logits.iter().position(|&logit| found(logit)).unwrap_or(0)
}

fn highest_of(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::uniforms;

    /// Few different values, so that many tie; some -inf.
    fn row(seed: u64, size: usize) -> Vec<f32> {
        let value = |id| (uniforms(seed, id as u64)[0] * 50.0).floor() as f32 - 40.0;
        (0..size).map(|id| if id % 7 == 3 { f32::NEG_INFINITY } else { value(id) }).collect()
    }

    #[test]
    fn the_tokens_from_a_bound_are_those_of_a_filter() {
        let mut scan = Scan::default();
        for (seed, size) in [1, 2, 15, 16, 17, 64, 1000, 1023, 1024, 1025, 2047, 5000].into_iter().enumerate() {
            let logits = row(seed as u64, size);
            let sparse: Vec<u32> =
                (0..size.div_ceil(32)).map(|word| (uniforms(9, word as u64)[0] * 4e9) as u32).collect();
            let full = vec![u32::MAX; size.div_ceil(32)];
            let gap: Vec<u32> = (0..size.div_ceil(32)).map(|word| if word % 3 == 0 { 0 } else { u32::MAX }).collect();
            for masks in [[None, None], [Some(&*full), None], [Some(&*sparse), None], [Some(&*gap), Some(&*sparse)]] {
                scan.summarise(&logits, masks).unwrap();
                let allowed = |id: u32| masks.iter().flatten().all(|mask| has(mask, id));
                let all = || logits.iter().zip(0..).map(|(&logit, id)| (id, logit));
                let top =
                    all().filter(|&(id, _)| allowed(id)).fold(f32::NEG_INFINITY, |top, (_, logit)| top.max(logit));
                assert_eq!(highest_of(&scan.tops), top);
                for (bound, banned) in [(9.0, vec![]), (0.0, vec![0, 5]), (f32::NEG_INFINITY, (0..30).collect())] {
                    let is_expected = |&(id, logit): &(u32, f32)| {
                        logit >= bound && logit.is_finite() && allowed(id) && !banned.contains(&id)
                    };
                    let expected: Vec<_> = all().filter(is_expected).collect();
                    let found: Vec<_> = scan.tokens_from(&logits, bound, Choice::AllBut(&banned)).collect();
                    assert_eq!(found, expected, "{size} {bound}");
                    let forced: Vec<_> = scan.tokens_from(&logits, bound, Choice::Forced(0)).collect();
                    assert_eq!(
                        forced,
                        all().filter(|&(id, logit)| id == 0 && logit >= bound && allowed(id)).collect::<Vec<_>>()
                    );
                }
            }
        }
    }

    #[test]
    fn the_normaliser_is_that_of_float64() {
        let mut scan = Scan::default();
        for (seed, scale) in [(1, 0.1), (2, 1.0), (3, 10.0), (4, 1000.0)] {
            let logits: Vec<f32> = row(seed, 5000).into_iter().map(|logit| logit * scale).collect();
            scan.summarise(&logits, [None, None]).unwrap();
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mass: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
            // Sums of 64 float32 exponentials, each within 3e-7.
            assert!((scan.log_total - (f64::from(highest) + mass.ln())).abs() < 2e-6, "{scale}");
        }
    }

    #[test]
    fn faults_are_found_wherever_they_are() {
        let mut scan = Scan::default();
        for place in [0, 17, 1023, 1024, 2999] {
            for (value, fault) in [(f32::NAN, Fault::Nan { id: place }), (f32::INFINITY, Fault::Infinite { id: place })]
            {
                for others in [0.0, f32::NEG_INFINITY] {
                    let mut logits = vec![others; 3000];
                    logits[place] = value;
                    assert_eq!(scan.summarise(&logits, [None, None]), Err(fault));
                }
            }
        }
        assert_eq!(scan.summarise(&[f32::NEG_INFINITY; 2000], [None, None]), Err(Fault::Empty));
    }
}
