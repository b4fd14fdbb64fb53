//! The tokens that are still in the running for one row, and the passes over them that never sort the vocabulary.

use std::cmp::Ordering;

use crate::error::Fault;
use crate::exp::exp;

/// Logits per block: the unit in which whole rows are summarised and skipped.
const BLOCK: usize = 64;
/// Independent accumulators of a pass, so that it vectorises.
const LANES: usize = 16;
/// Below this many candidates a plain sort beats further partitioning.
const SORT_LIMIT: usize = 16;

/// A token and its logit.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    logit: f32,
    id: u32,
}

impl Candidate {
    /// The order of all stages: higher logits first, equal ones by id. Logits are no NaN here.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// What a row keeps between steps. Each buffer takes its full size when it is first used, then nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    block_max: Vec<f32>,
    block_mass: Vec<f64>,
    block_order: Vec<f32>,
    /// The candidates in the order of their ids, once a stage has narrowed the row.
    list: Vec<Candidate>,
    /// The same, free to be partitioned.
    order: Vec<Candidate>,
}

/// One row's candidates: first the whole row, in place, then the list that a stage left.
pub struct Candidates<'a> {
    logits: &'a [f32],
    highest: f32,
    inverse_temperature: f32,
    buffers: &'a mut Buffers,
    listed: bool,
}

impl<'a> Candidates<'a> {
    /// Reads a whole row once. Weights will be exp((logit - highest) * inverse_temperature).
    pub fn scan(logits: &'a [f32], inverse_temperature: f32, buffers: &'a mut Buffers) -> Result<Self, Fault> {
        buffers.block_max.clear();
        buffers.block_max.reserve(logits.len().div_ceil(BLOCK));
        let mut any_nan = false;
        for block in logits.chunks(BLOCK) {
            let (max, nan) = max_and_nan(block);
            buffers.block_max.push(max);
            any_nan |= nan;
        }
        let highest = buffers.block_max.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if any_nan {
            return Err(Fault::Nan { id: position(logits, |logit| logit.is_nan()) });
        }
        if highest == f32::INFINITY {
            return Err(Fault::Infinite { id: position(logits, |logit| logit == f32::INFINITY) });
        }
        if highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        Ok(Self { logits, highest, inverse_temperature, buffers, listed: false })
    }

    /// The token with the highest logit; of several the lowest id.
    pub fn best(&self) -> usize {
        let block = self.buffers.block_max.iter().position(|&max| max == self.highest).unwrap_or(0);
        let start = block * BLOCK;
        start + position(self.logits.get(start..).unwrap_or_default(), |logit| logit == self.highest)
    }

    /// The logarithm of token `id`'s probability under the row as it was given: no temperature, no stage.
    pub fn log_probability(&self, id: usize) -> f32 {
        let total: f64 = self.logits.chunks(BLOCK).map(|block| mass(block, self.highest, 1.0)).sum();
        let logit = self.logits.get(id).copied().unwrap_or(f32::NEG_INFINITY);
        (f64::from(logit) - f64::from(self.highest) - total.ln()) as f32
    }

    /// Keeps the `count` first candidates.
    pub fn keep_count(&mut self, count: usize) {
        if count == 0 || count >= self.len() {
            return;
        }
        let bound = self.lower_bound_of_nth(count);
        self.keep_from(bound);
        self.copy_to_order();
        if count < self.buffers.order.len() {
            let (_, &mut last, _) = self.buffers.order.select_nth_unstable_by(count - 1, Candidate::rank);
            self.keep_through(last);
        }
    }

    /// Keeps the shortest run of first candidates, at least one, that holds the share `share` of the mass.
    pub fn keep_mass(&mut self, share: f64) {
        let total = self.sum();
        // A candidate lighter than this, and all behind it, weigh less than (1 - share) together: the ones
        // before it reach the share without it. The little more in the exponent covers rounding.
        let lightest = (1.0 - share) * total / self.len() as f64;
        let floor = f64::from(self.highest) + (lightest.ln() - 1e-3) / f64::from(self.inverse_temperature);
        self.keep_from((floor as f32).next_down());
        self.copy_to_order();
        let (highest, inverse_temperature) = (self.highest, self.inverse_temperature);
        let weight = |candidate: &Candidate| weight(candidate.logit, highest, inverse_temperature);
        if let Some(last) = last_within(&mut self.buffers.order, share * total, weight) {
            self.keep_through(last);
        }
    }

    /// The candidate at which the running sum of weights, by id, passes the share `uniform` of all.
    pub fn draw(&mut self, uniform: f64) -> usize {
        let target = uniform * self.sum();
        if self.listed {
            let weighted = self.buffers.list.iter().map(|candidate| (candidate.id as usize, self.weight(*candidate)));
            return passing(weighted, 0.0, target);
        }
        let mut sum = 0.0;
        let mut chosen = (0, 0.0);
        for (block, &mass) in self.buffers.block_mass.iter().enumerate() {
            if mass > 0.0 {
                chosen = (block, sum);
                sum += mass;
                if sum > target {
                    break;
                }
            }
        }
        let (block, before) = chosen;
        let ids = (block * BLOCK..self.logits.len()).take(BLOCK);
        let weighted = ids.map(|id| (id, weight(self.logits[id], self.highest, self.inverse_temperature)));
        passing(weighted, before, target)
    }

    fn len(&self) -> usize {
        if self.listed { self.buffers.list.len() } else { self.logits.len() }
    }

    fn weight(&self, candidate: Candidate) -> f32 {
        weight(candidate.logit, self.highest, self.inverse_temperature)
    }

    fn sum(&mut self) -> f64 {
        if self.listed {
            return self.buffers.list.iter().map(|candidate| f64::from(self.weight(*candidate))).sum();
        }
        let (highest, inverse_temperature) = (self.highest, self.inverse_temperature);
        self.buffers.block_mass.clear();
        let masses = self.logits.chunks(BLOCK).map(|block| mass(block, highest, inverse_temperature));
        self.buffers.block_mass.extend(masses);
        self.buffers.block_mass.iter().sum()
    }

    /// A value that the `nth` highest logit reaches: `nth` blocks have a maximum at least as high.
    fn lower_bound_of_nth(&mut self, nth: usize) -> f32 {
        let Buffers { block_max, block_order, .. } = &mut *self.buffers;
        if self.listed || nth > block_max.len() {
            return f32::NEG_INFINITY;
        }
        block_order.clear();
        block_order.extend_from_slice(block_max);
        *block_order.select_nth_unstable_by(nth - 1, |a, b| b.total_cmp(a)).1
    }

    /// Keeps candidates whose logit is at least `bound`, in the order of their ids.
    fn keep_from(&mut self, bound: f32) {
        let Buffers { block_max, list, .. } = &mut *self.buffers;
        if self.listed {
            list.retain(|candidate| candidate.logit >= bound);
            return;
        }
        list.clear();
        list.reserve(self.logits.len());
        for (block, (logits, &max)) in self.logits.chunks(BLOCK).zip(block_max.iter()).enumerate() {
            if max >= bound {
                let ids = (block * BLOCK) as u32..;
                let candidates = ids.zip(logits).map(|(id, &logit)| Candidate { logit, id });
                list.extend(candidates.filter(|candidate| candidate.logit >= bound));
            }
        }
        self.listed = true;
    }

    fn keep_through(&mut self, last: Candidate) {
        self.buffers.list.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
    }

    fn copy_to_order(&mut self) {
        let Buffers { list, order, .. } = &mut *self.buffers;
        order.clear();
        order.reserve(list.capacity());
        order.extend_from_slice(list);
    }
}

fn weight(logit: f32, highest: f32, inverse_temperature: f32) -> f32 {
    exp((logit - highest) * inverse_temperature)
}

fn max_and_nan(block: &[f32]) -> (f32, bool) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let mut take = |lane: usize, logit: f32| {
        max[lane] = if logit > max[lane] { logit } else { max[lane] };
        nan[lane] |= logit.is_nan();
    };
    for_each_lane(block, &mut take);
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), nan.contains(&true))
}

fn mass(block: &[f32], highest: f32, inverse_temperature: f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    for_each_lane(block, |lane, logit| lanes[lane] += weight(logit, highest, inverse_temperature));
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

/// Calls `take(lane, logit)` for each logit: over whole groups of lanes first, whose fixed length lets the loop vectorise.
#[inline(always)]
fn for_each_lane(block: &[f32], mut take: impl FnMut(usize, f32)) {
    let (groups, rest) = block.as_chunks::<LANES>();
    for group in groups {
        for (lane, &logit) in group.iter().enumerate() {
            take(lane, logit);
        }
    }
    for (lane, &logit) in rest.iter().enumerate() {
        take(lane, logit);
    }
}

fn position(logits: &[f32], found: impl Fn(f32) -> bool) -> usize {
    logits.iter().position(|&logit| found(logit)).unwrap_or(0)
}

/// The first item at which the running sum passes `target`; the last with a weight where rounding lets none.
fn passing(weighted: impl Iterator<Item = (usize, f32)>, before: f64, target: f64) -> usize {
    let mut sum = before;
    let mut chosen = 0;
    for (id, weight) in weighted {
        if weight > 0.0 {
            chosen = id;
            sum += f64::from(weight);
            if sum > target {
                break;
            }
        }
    }
    chosen
}

/// The candidate, by rank, at which the running sum of weights reaches `target`: quickselect by mass.
fn last_within(order: &mut [Candidate], mut target: f64, weight: impl Fn(&Candidate) -> f32) -> Option<Candidate> {
    let mut rest = order;
    while rest.len() > SORT_LIMIT {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, Candidate::rank);
        let (first, second) = rest.split_at_mut(middle);
        let mass: f64 = first.iter().map(|candidate| f64::from(weight(candidate))).sum();
        if mass >= target {
            rest = first;
        } else {
            target -= mass;
            rest = second;
        }
    }
    rest.sort_unstable_by(Candidate::rank);
    let mut sum = 0.0;
    let reaches = rest.iter().find(|candidate| {
        sum += f64::from(weight(candidate));
        sum >= target
    });
    reaches.or(rest.last()).copied()
}
