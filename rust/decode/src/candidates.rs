//! The tokens that are still in the running for one row, and the passes over them that never sort the vocabulary.

use std::cmp::Ordering;

use crate::error::Fault;
use crate::exp::exp;
use crate::kernels::{self, BLOCK};
use crate::selection;

/// A token, its logit, and exp((logit - highest) / temperature), highest being the row's.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
    /// Its share, up to a common factor.
    pub weight: f32,
}

impl Candidate {
    /// The order of most stages: higher logits first, equal ones by id. Logits are no NaN here.
    pub fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// What the passes over a row write. Each buffer takes its full size when it is first used, then nothing is allocated.
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
    /// Reads a whole row once.
    pub fn scan(logits: &'a [f32], inverse_temperature: f32, buffers: &'a mut Buffers) -> Result<Self, Fault> {
        let any_nan = kernels::maxima(logits, &mut buffers.block_max);
        let highest = buffers.block_max.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
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
        start + position(&self.logits[start..], |logit| logit == self.highest)
    }

    /// log sum exp of the row as it was given: no temperature, no stage.
    pub fn log_total(&mut self) -> f64 {
        kernels::masses(self.logits, self.highest, 1.0, &mut self.buffers.block_mass);
        f64::from(self.highest) + self.buffers.block_mass.iter().sum::<f64>().ln()
    }

    /// Writes the `count` first tokens and their logits to `first`, and keeps them alone. -inf is never among them.
    pub fn copy_first(&mut self, count: usize, first: &mut Vec<(i32, f32)>) {
        self.keep_count(count);
        self.list_all();
        self.copy_to_order();
        self.buffers.order.sort_unstable_by(Candidate::rank);
        first.clear();
        let present = self.buffers.order.iter().filter(|candidate| candidate.logit > f32::NEG_INFINITY);
        first.extend(present.map(|candidate| (candidate.id as i32, candidate.logit)));
    }

    /// The whole row again.
    pub fn restart(&mut self) {
        self.listed = false;
    }

    /// Keeps what lies at most `count` standard deviations of all logits above -inf below the highest.
    pub fn keep_deviations(&mut self, count: f64) {
        let (present, sum, squares) = kernels::moments(self.logits, self.highest);
        let mean = sum / present;
        let deviation = (squares / present - mean * mean).max(0.0).sqrt();
        self.keep_from((f64::from(self.highest) - count * deviation) as f32);
    }

    /// Keeps the `count` first candidates.
    pub fn keep_count(&mut self, count: usize) {
        if count >= self.len() {
            return;
        }
        let bound = self.lower_bound_of_nth(count);
        self.keep_from(bound);
        if count < self.buffers.list.len() {
            self.copy_to_order();
            let (_, &mut last, _) = self.buffers.order.select_nth_unstable_by(count - 1, Candidate::rank);
            self.keep_through(last);
        }
    }

    /// Keeps the shortest run of first candidates, at least one, that holds the share `share` of the mass.
    pub fn keep_mass(&mut self, share: f64) {
        let total = self.total();
        self.keep_from(self.logit_of_weight(self.lightest(share, total)));
        self.copy_to_order();
        if let Some(last) = selection::last_within(&mut self.buffers.order, share * total, Candidate::rank) {
            self.keep_through(last);
        }
    }

    /// Keeps what has at least the share `share` of the highest candidate's weight.
    pub fn keep_relative(&mut self, share: f64) {
        let top = self.top();
        self.keep_from(((share.ln() / f64::from(self.inverse_temperature)) + f64::from(top)) as f32);
    }

    /// Keeps the shortest run of candidates, by the distance of their surprise from the entropy, that holds the share
    /// `share` of the mass; at least one.
    pub fn keep_typical(&mut self, share: f64) {
        let total = self.total();
        let entropy = total.ln() - self.mean_logit(total);
        let least = total.ln() - self.exponent(self.top());
        // As in `keep_mass`, if no heavier candidate can be as far from the entropy on the other side.
        let light = (-self.lightest(share, total).ln() + total.ln()).max(2.0 * entropy - least + 1e-3);
        self.keep_from(self.logit_of_weight((total.ln() - light).exp()));
        self.copy_to_order();
        let (highest, inverse_temperature) = (self.highest, self.inverse_temperature);
        let distance = |candidate: &Candidate| {
            (total.ln() - exponent(candidate.logit, highest, inverse_temperature) - entropy).abs()
        };
        let order = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(a.rank(b));
        if let Some(last) = selection::last_within(&mut self.buffers.order, share * total, order) {
            self.buffers.list.retain(|candidate| order(candidate, &last) != Ordering::Greater);
        }
    }

    /// Drops all candidates of at least the share `share` of the mass, but for the last of them by rank.
    pub fn drop_first(&mut self, share: f64) {
        let least = share * self.total();
        self.list_all();
        let list = &mut self.buffers.list;
        let first = list.iter().filter(|candidate| candidate.weight > 0.0 && f64::from(candidate.weight) >= least);
        if let Some(&last) = first.max_by(|a, b| a.rank(b)) {
            list.retain(|candidate| candidate.rank(&last) != Ordering::Less);
        }
    }

    /// Keeps candidates of a surprise of at most `limit` bits, at least the first. Gives the logarithm of the mass there
    /// was before: see [`surprise`](Self::surprise).
    pub fn keep_surprise(&mut self, limit: f64) -> f64 {
        let log_total = self.total().ln();
        let exponent = (log_total - limit * std::f64::consts::LN_2) / f64::from(self.inverse_temperature);
        let bound = (f64::from(self.highest) + exponent) as f32;
        if bound > self.top() {
            self.keep_count(1);
        } else {
            self.keep_from(bound);
        }
        log_total
    }

    /// The surprise of token `id`, in bits, among candidates of that mass.
    pub fn surprise(&self, id: usize, log_total: f64) -> f64 {
        (log_total - self.exponent(self.logits[id])) / std::f64::consts::LN_2
    }

    /// The candidate at which the running sum of weights, by id, passes the share `uniform` of all.
    pub fn draw(&mut self, uniform: f64) -> usize {
        let target = uniform * self.total();
        if self.listed {
            let weighted = self.buffers.list.iter().map(|candidate| (candidate.id as usize, candidate.weight));
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

    /// The highest logit of a candidate.
    fn top(&self) -> f32 {
        if !self.listed {
            return self.highest;
        }
        let logits = self.buffers.list.iter().map(|candidate| candidate.logit);
        logits.fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }

    /// The sum of all weights.
    fn total(&mut self) -> f64 {
        if self.listed {
            return self.buffers.list.iter().map(|candidate| f64::from(candidate.weight)).sum();
        }
        kernels::masses(self.logits, self.highest, self.inverse_temperature, &mut self.buffers.block_mass);
        self.buffers.block_mass.iter().sum()
    }

    /// The mean of (logit - highest) / temperature under the probabilities.
    fn mean_logit(&self, total: f64) -> f64 {
        let sum: f64 = if self.listed {
            let list = self.buffers.list.iter().filter(|candidate| candidate.weight > 0.0);
            list.map(|candidate| f64::from(candidate.weight) * self.exponent(candidate.logit)).sum()
        } else {
            kernels::surprise(self.logits, self.highest, self.inverse_temperature)
        };
        sum / total
    }

    /// A candidate lighter than this, and all n behind it, weigh less than (1 - share) of the total together: the ones
    /// before it reach the share without it.
    fn lightest(&self, share: f64, total: f64) -> f64 {
        (1.0 - share) * total / self.len() as f64
    }

    /// A logit a little below all whose weight is at least `weight`: the little covers rounding.
    fn logit_of_weight(&self, weight: f64) -> f32 {
        let logit = f64::from(self.highest) + (weight.ln() - 1e-3) / f64::from(self.inverse_temperature);
        (logit as f32).next_down()
    }

    fn exponent(&self, logit: f32) -> f64 {
        exponent(logit, self.highest, self.inverse_temperature)
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

    fn list_all(&mut self) {
        if !self.listed {
            self.keep_from(f32::NEG_INFINITY);
        }
    }

    /// Keeps candidates whose logit is at least `bound`, in the order of their ids.
    fn keep_from(&mut self, bound: f32) {
        let Buffers { block_max, list, .. } = &mut *self.buffers;
        if self.listed {
            list.retain(|candidate| candidate.logit >= bound);
            return;
        }
        list.clear();
        for (block, (logits, &max)) in self.logits.chunks(BLOCK).zip(block_max.iter()).enumerate() {
            if max >= bound {
                let ids = (block * BLOCK) as u32..;
                let kept = ids.zip(logits).filter(|&(_, &logit)| logit >= bound);
                list.extend(kept.map(|(id, &logit)| Candidate { id, logit, weight: 0.0 }));
            }
        }
        for candidate in list {
            candidate.weight = weight(candidate.logit, self.highest, self.inverse_temperature);
        }
        self.listed = true;
    }

    fn keep_through(&mut self, last: Candidate) {
        self.buffers.list.retain(|candidate| candidate.rank(&last) != Ordering::Greater);
    }

    fn copy_to_order(&mut self) {
        let Buffers { list, order, .. } = &mut *self.buffers;
        order.clear();
        order.extend_from_slice(list);
    }
}

fn exponent(logit: f32, highest: f32, inverse_temperature: f32) -> f64 {
    f64::from((logit - highest) * inverse_temperature)
}

fn weight(logit: f32, highest: f32, inverse_temperature: f32) -> f32 {
    exp((logit - highest) * inverse_temperature)
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
