//! One row of logits: its normaliser, and its highest tokens without sorting the vocabulary. One pass over memory.

use std::cmp::Ordering;

use crate::error::Fault;
use crate::exp::exp;

/// Independent accumulators of a pass, so that it vectorises.
const LANES: usize = 16;
/// Logits per chunk: what is summarised twice while it lies in the first cache. A *strand* is one lane of a chunk,
/// 64 logits that lie `LANES` apart: its maximum needs no reduction across a vector.
const CHUNK: usize = LANES * 64;

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
    strands: Vec<[f32; LANES]>,
    order: Vec<f32>,
}

impl Scan {
    /// Reads the row once: the normaliser and the strands' maxima.
    pub fn summarise(&mut self, logits: &[f32]) -> Result<(), Fault> {
        self.strands.resize(logits.len().div_ceil(CHUNK), [f32::NEG_INFINITY; LANES]);
        let summary = summarise(logits, &mut self.strands);
        if summary.any_nan {
            return Err(Fault::Nan { id: position(logits, |logit| logit.is_nan()) });
        }
        if summary.highest == f32::INFINITY {
            return Err(Fault::Infinite { id: position(logits, |logit| logit == f32::INFINITY) });
        }
        if summary.highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        self.log_total = f64::from(summary.highest) + summary.mass.ln();
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
        if allowed.masks.iter().any(Option::is_some) {
            restrict(logits, allowed.masks, &mut self.strands);
        }
        let reach = count.saturating_add(allowed.banned.len());
        let bound = self.lower_bound_of_nth(reach);
        self.candidates.clear();
        // Where few strands tie with the bound this is enough for good.
        self.candidates.reserve(logits.len().min(4 * reach));
        for (chunk, (logits, strands)) in logits.chunks(CHUNK).zip(&self.strands).enumerate() {
            for (lane, _) in strands.iter().enumerate().filter(|&(_, &max)| max >= bound) {
                let ids = (chunk * CHUNK + lane..).step_by(LANES).map(|id| id as u32);
                let strand = logits.iter().skip(lane).step_by(LANES);
                let high = ids.zip(strand).filter(|&(_, &logit)| logit >= bound);
                self.candidates.extend(high.map(|(id, &logit)| Candidate { logit, id }));
            }
        }
        let masks = allowed.masks;
        self.candidates.retain(|candidate| {
            masks.iter().flatten().all(|mask| has(mask, candidate.id))
                && allowed.banned.binary_search(&candidate.id).is_err()
                && candidate.logit > f32::NEG_INFINITY
        });
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, Candidate::rank);
            self.candidates.truncate(count);
        }
    }

    /// A value that the `nth` highest allowed logit reaches: `nth` strands have a maximum at least as high.
    fn lower_bound_of_nth(&mut self, nth: usize) -> f32 {
        let Self { strands, order, .. } = self;
        order.clear();
        order.reserve(strands.len() * LANES);
        order.extend(strands.iter().map(highest_lane));
        // First among the chunks' maxima, of which there are few, then among the strands that reach that.
        let first = nth_highest(order, nth);
        order.clear();
        order.extend(strands.iter().flatten().copied().filter(|&max| max >= first));
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

fn highest_lane(lanes: &[f32; LANES]) -> f32 {
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

struct Summary {
    highest: f32,
    /// Sum of exp(logit - highest).
    mass: f64,
    any_nan: bool,
}

/// Compiles `$body` once for each instruction set and calls the best that this CPU has. The bits are the same in all: no
/// operation is contracted or reordered.
macro_rules! for_this_cpu {
    ($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $body:ident) => {
        fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the CPU has what the function needs.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has what the function needs.
                    return unsafe { avx2($($argument),*) };
                }
            }
            $body($($argument),*)
        }
    };
}

for_this_cpu!(summarise(logits: &[f32], strands: &mut [[f32; LANES]]) -> Summary = summarise_chunks);
for_this_cpu!(restrict(logits: &[f32], masks: [Option<&[u32]>; 2], strands: &mut [[f32; LANES]]) = restrict_chunks);

#[inline(always)]
fn summarise_chunks(logits: &[f32], strands: &mut [[f32; LANES]]) -> Summary {
    let mut total = Summary { highest: f32::NEG_INFINITY, mass: 0.0, any_nan: false };
    for (chunk, strands) in logits.chunks(CHUNK).zip(strands) {
        let mut max = [f32::NEG_INFINITY; LANES];
        let mut nan = [0_u32; LANES];
        for_each_lane(chunk, |lane, logit| {
            max[lane] = if logit > max[lane] { logit } else { max[lane] };
            nan[lane] |= u32::from(logit.is_nan());
        });
        *strands = max;
        total.any_nan |= nan.iter().any(|&lane| lane != 0);
        let highest = highest_lane(&max);
        if highest.is_finite() {
            let mut mass = [0.0_f32; LANES];
            for_each_lane(chunk, |lane, logit| mass[lane] += exp(logit - highest));
            let mass: f64 = mass.iter().map(|&lane| f64::from(lane)).sum();
            if highest > total.highest {
                total.mass = total.mass * f64::from(exp(total.highest - highest)) + mass;
            } else {
                total.mass += mass * f64::from(exp(highest - total.highest));
            }
        }
        total.highest = total.highest.max(highest);
    }
    total
}

/// The strands' maxima once more, of the tokens in all masks alone.
#[inline(always)]
fn restrict_chunks(logits: &[f32], masks: [Option<&[u32]>; 2], strands: &mut [[f32; LANES]]) {
    for (number, (chunk, strands)) in logits.chunks(CHUNK).zip(strands).enumerate() {
        let mut words = [u32::MAX; CHUNK / 32];
        for mask in masks.iter().flatten() {
            let mask = mask.iter().skip(number * words.len());
            words.iter_mut().zip(mask).for_each(|(word, mask)| *word &= mask);
        }
        if words.iter().all(|&word| word == u32::MAX) {
            continue;
        }
        let mut max = [f32::NEG_INFINITY; LANES];
        for (logits, word) in chunk.chunks(32).zip(words).filter(|&(_, word)| word != 0) {
            for (half, logits) in logits.chunks(LANES).enumerate() {
                let bits = word >> (half * LANES);
                for (lane, &logit) in logits.iter().enumerate() {
                    let allowed = bits >> lane & 1 == 1;
                    max[lane] = if allowed && logit > max[lane] { logit } else { max[lane] };
                }
            }
        }
        *strands = max;
    }
}

/// Calls `take(lane, logit)` for each logit: over whole groups of lanes first, whose fixed length lets the loop vectorise.
#[inline(always)]
fn for_each_lane(chunk: &[f32], mut take: impl FnMut(usize, f32)) {
    let (groups, rest) = chunk.as_chunks::<LANES>();
    for group in groups {
        for (lane, &logit) in group.iter().enumerate() {
            take(lane, logit);
        }
    }
    for (lane, &logit) in rest.iter().enumerate() {
        take(lane, logit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::uniform;

    /// Few different values, so that many tie; some -inf.
    fn row(seed: u64, size: usize) -> Vec<f32> {
        let value = |id| (uniform(seed, id as u64) * 50.0).floor() as f32 - 40.0;
        (0..size).map(|id| if id % 7 == 3 { f32::NEG_INFINITY } else { value(id) }).collect()
    }

    #[test]
    fn the_highest_allowed_tokens_are_those_of_a_sort() {
        let mut scan = Scan::default();
        for (seed, size) in [1, 2, 15, 16, 17, 64, 1000, 1023, 1024, 1025, 2047, 5000].into_iter().enumerate() {
            let logits = row(seed as u64, size);
            let sparse: Vec<u32> = (0..size.div_ceil(32)).map(|word| (uniform(9, word as u64) * 4e9) as u32).collect();
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
