//! One row of logits: its normaliser, and its highest tokens without sorting the vocabulary. One pass over memory.

use std::cmp::Ordering;

use crate::error::Fault;
use crate::exp::exp;
use crate::kernels::{self, BLOCK};

/// Blocks of a chunk: what is summarised twice while it lies in the first cache.
const CHUNK_BLOCKS: usize = 64;
const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// Blocks whose common maximum is looked at first when a bound is sought.
const GROUP_BLOCKS: usize = 16;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub logit: f32,
    pub id: u32,
}

impl Candidate {
    /// Higher logits first, equal ones by id. Logits are no NaN here.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// Which tokens a row may continue with.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Bit i % 32 of word i / 32 set: token i may come. None: all may.
    pub masks: [Option<&'a [u32]>; 2],
    /// Tokens that may not come, a few, in ascending order.
    pub banned: &'a [u32],
}

/// The summary of a row, and its buffers.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Log of the sum of exp over the whole row: logit - log_total is a token's log-probability.
    pub log_total: f64,
    /// The highest allowed tokens, in no order; none with logit -inf.
    pub candidates: Vec<Candidate>,
    block_max: Vec<f32>,
    order: Vec<f32>,
    mask: Vec<u32>,
}

impl Scan {
    /// Reads the row once: the normaliser and the blocks' maxima.
    pub fn summarise(&mut self, logits: &[f32]) -> Result<(), Fault> {
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
                let rise = f64::from(exp((highest - top).min(0.0)));
                let fall = f64::from(exp((top - highest).min(0.0)));
                (highest, mass) = (highest.max(top), mass * rise + sum * fall);
            }
        }
        if highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        self.log_total = f64::from(highest) + mass.ln();
        Ok(())
    }

    /// Makes `token` the only candidate.
    pub fn take_one(&mut self, logits: &[f32], token: u32, allowed: Allowed<'_>) {
        self.candidates.clear();
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        if logit > f32::NEG_INFINITY && allowed.masks.iter().flatten().all(|mask| has(mask, token)) {
            self.candidates.push(Candidate { logit, id: token });
        }
    }

    /// Makes the `count` highest allowed tokens the candidates. The row must have been summarised.
    pub fn take_highest(&mut self, logits: &[f32], count: usize, allowed: Allowed<'_>) {
        self.restrict(logits, allowed.masks);
        let reach = count.saturating_add(allowed.banned.len());
        let bound = self.lower_bound_of_nth(reach);
        let Self { candidates, block_max, mask, .. } = self;
        candidates.clear();
        // Where few blocks tie with the bound this is enough for good.
        candidates.reserve(logits.len().min(4 * reach));
        for (block, logits) in logits.chunks(BLOCK).enumerate().filter(|&(block, _)| block_max[block] >= bound) {
            let tokens = logits.iter().zip((block * BLOCK) as u32..);
            candidates.extend(tokens.filter(|&(&logit, _)| logit >= bound).map(|(&logit, id)| Candidate { logit, id }));
        }
        candidates.retain(|candidate| {
            candidate.logit > f32::NEG_INFINITY
                && (mask.is_empty() || has(mask, candidate.id))
                && allowed.banned.binary_search(&candidate.id).is_err()
        });
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, Candidate::rank);
            candidates.truncate(count);
        }
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

    /// A value that the `nth` highest allowed logit reaches: `nth` blocks have a maximum at least as high.
    fn lower_bound_of_nth(&mut self, nth: usize) -> f32 {
        let Self { block_max, order, .. } = self;
        order.clear();
        order.reserve(block_max.len());
        order.extend(block_max.chunks(GROUP_BLOCKS).map(highest_of));
        // First among the maxima of many blocks, of which there are few, then among the blocks that reach that.
        let first = nth_highest(order, nth);
        order.clear();
        order.extend(block_max.iter().copied().filter(|&max| max >= first));
        nth_highest(order, nth)
    }
}

/// The `nth` highest value, or -inf where there are not so many.
fn nth_highest(values: &mut [f32], nth: usize) -> f32 {
    if nth == 0 || nth > values.len() {
        return f32::NEG_INFINITY;
    }
    *values.select_nth_unstable_by(nth - 1, |a, b| b.total_cmp(a)).1
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
    fn the_highest_allowed_tokens_are_those_of_a_sort() {
        let mut scan = Scan::default();
        for (seed, size) in [1, 2, 15, 16, 17, 64, 1000, 1023, 1024, 1025, 2047, 5000].into_iter().enumerate() {
            let logits = row(seed as u64, size);
            let sparse: Vec<u32> =
                (0..size.div_ceil(32)).map(|word| (uniforms(9, word as u64)[0] * 4e9) as u32).collect();
            let full = vec![u32::MAX; size.div_ceil(32)];
            let gap: Vec<u32> = (0..size.div_ceil(32)).map(|word| if word % 3 == 0 { 0 } else { u32::MAX }).collect();
            for masks in [[None, None], [Some(&*full), None], [Some(&*sparse), None], [Some(&*gap), Some(&*sparse)]] {
                for (count, banned) in [(1, vec![]), (4, vec![0, 5]), (40, (0..30).collect()), (10_000, vec![])] {
                    let allowed = Allowed { masks, banned: &banned };
                    scan.summarise(&logits).unwrap();
                    scan.take_highest(&logits, count, allowed);
                    scan.candidates.sort_unstable_by(Candidate::rank);
                    let all = logits.iter().zip(0..).map(|(&logit, id)| Candidate { logit, id });
                    let mut expected: Vec<Candidate> = all
                        .filter(|token| token.logit > f32::NEG_INFINITY && !banned.contains(&token.id))
                        .filter(|token| masks.iter().flatten().all(|mask| has(mask, token.id)))
                        .collect();
                    expected.sort_by(Candidate::rank);
                    expected.truncate(count);
                    assert_eq!(scan.candidates, expected, "{size} {count}");
                }
            }
        }
    }

    #[test]
    fn the_normaliser_is_that_of_float64() {
        let mut scan = Scan::default();
        for (seed, scale) in [(1, 0.1), (2, 1.0), (3, 10.0), (4, 1000.0)] {
            let logits: Vec<f32> = row(seed, 5000).into_iter().map(|logit| logit * scale).collect();
            scan.summarise(&logits).unwrap();
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
                    assert_eq!(scan.summarise(&logits), Err(fault));
                }
            }
        }
        assert_eq!(scan.summarise(&[f32::NEG_INFINITY; 2000]), Err(Fault::Empty));
    }
}
