//! The tokens that are still in the running for one row, and the passes over them that never sort the vocabulary.

use std::cmp::Ordering;

use crate::error::Fault;
use crate::exp::{exp2, scale};

use crate::kernels::{self, BLOCK};
use crate::list::{Key, List, rank};

/// Halvings of the range in which a bound is looked for: a looser bound costs a few more candidates.
const HALVINGS: usize = 16;

/// What the passes over a row write. Each buffer takes its full size when it is first used, then nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    block_max: Vec<f32>,
    block_mass: Vec<f64>,
    /// Of each block the weight of its highest value, and its mass.
    block_top: Vec<f32>,
    block_weight: Vec<f32>,
    /// The candidates, once a stage has narrowed the row.
    list: List,
}

/// One row's candidates: first the whole row, in place, then the list that a stage left. A candidate's weight is
/// e^((logit - highest) / temperature) = 2^((logit - highest) * scale), highest being the row's; surprises are in bits.
pub struct Candidates<'a> {
    logits: &'a [f32],
    highest: f32,
    scale: f32,
    buffers: &'a mut Buffers,
    listed: bool,
}

impl<'a> Candidates<'a> {
    /// Reads a whole row once.
    pub fn scan(logits: &'a [f32], scale: f32, buffers: &'a mut Buffers) -> Result<Self, Fault> {
        buffers.block_max.resize(logits.len().div_ceil(BLOCK), 0.0);
        let any_nan = kernels::maxima(logits, &mut buffers.block_max);
        let (_, highest) = kernels::range(&buffers.block_max);
        if any_nan {
            return Err(Fault::Nan { id: position(logits, |logit| logit.is_nan()) });
        }
        if highest == f32::INFINITY {
            return Err(Fault::Infinite { id: position(logits, |logit| logit == f32::INFINITY) });
        }
        if highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        Ok(Self { logits, highest, scale, buffers, listed: false })
    }

    /// The token with the highest logit; of several the lowest id.
    pub fn best(&self) -> usize {
        let block = self.buffers.block_max.iter().position(|&max| max == self.highest).unwrap_or(0);
        let start = block * BLOCK;
        start + position(&self.logits[start..], |logit| logit == self.highest)
    }

    /// log sum exp of the row as it was given: no temperature, no stage.
    pub fn log_total(&mut self) -> f64 {
        f64::from(self.highest) + self.masses(scale(1.0)).ln()
    }

    /// Writes the `count` first tokens and their logits to `first`, and keeps them alone. -inf is never among them.
    pub fn copy_first(&mut self, count: usize, first: &mut Vec<(i32, f32)>) {
        self.keep_count(count);
        self.list_all();
        self.buffers.list.sorted(first);
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
        if !self.listed {
            let bound = self.bound_of_count(count);
            self.keep_from(bound);
        }
        self.buffers.list.keep_count(count);
    }

    /// Keeps the shortest run of first candidates, at least one, that holds the share `share` of the mass.
    pub fn keep_mass(&mut self, share: f64) {
        let total = self.total();
        let mut bound = self.logit_of_weight(self.lightest(share, total));
        if !self.listed {
            bound = self.bound_of_mass(share * total, bound);
        }
        self.keep_from(bound);
        self.buffers.list.keep_mass(share * total, &Key::Logit);
    }

    /// Keeps what has at least the share `share` of the highest candidate's weight.
    pub fn keep_relative(&mut self, share: f64) {
        let top = self.top();
        self.keep_from((share.log2() / f64::from(self.scale) + f64::from(top)) as f32);
    }

    /// Keeps the shortest run of candidates, by the distance of their surprise from the entropy, that holds the share
    /// `share` of the mass; at least one.
    pub fn keep_typical(&mut self, share: f64) {
        let total = self.total();
        let log_total = total.log2();
        let entropy = log_total - self.mean_exponent(total);
        let least = log_total - self.exponent(self.top());
        // As in `keep_mass`, if no heavier candidate can be as far from the entropy on the other side.
        let light = (log_total - self.lightest(share, total).log2()).max(2.0 * entropy - least + 1e-3);
        self.keep_from(self.logit_of_weight((log_total - light).exp2()));
        let (highest, scale) = (self.highest, self.scale);
        let nearness = |logit| -(log_total - exponent(logit, highest, scale) - entropy).abs() as f32;
        self.buffers.list.keep_mass(share * total, &Key::Of(&nearness));
    }

    /// Drops all candidates of at least the share `share` of the mass, but for the last of them by rank.
    pub fn drop_first(&mut self, share: f64) {
        let least = share * self.total();
        self.list_all();
        let list = &mut self.buffers.list;
        let candidates = list.logits().iter().copied().zip(list.ids().iter().copied()).zip(list.weights());
        let first = candidates.filter(|&(_, &weight)| weight > 0.0 && f64::from(weight) >= least);
        if let Some((last, _)) = first.max_by(|&(a, _), &(b, _)| rank(a, b)) {
            list.retain(|logit, id, _, _| rank((logit, id), last) != Ordering::Less);
        }
    }

    /// Keeps candidates of a surprise of at most `limit` bits, at least the first. Gives the logarithm of the mass there
    /// was before: see [`surprise`](Self::surprise).
    pub fn keep_surprise(&mut self, limit: f64) -> f64 {
        let log_total = self.total().log2();
        let exponent = (log_total - limit) / f64::from(self.scale);
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
        log_total - self.exponent(self.logits[id])
    }

    /// The candidate at which the running sum of weights, by id, passes the share `uniform` of all.
    pub fn draw(&mut self, uniform: f64) -> usize {
        let target = uniform * self.total();
        let mut before = 0.0;
        let mut chosen = (0, 0.0);
        for (block, &mass) in self.buffers.block_mass.iter().enumerate() {
            if mass > 0.0 {
                chosen = (block, before);
                before += mass;
                if before > target {
                    break;
                }
            }
        }
        let (block, before) = chosen;
        let places = (block * BLOCK..self.len()).take(BLOCK);
        if self.listed {
            let list = &self.buffers.list;
            passing(places.map(|place| (list.ids()[place] as usize, list.weights()[place])), before, target)
        } else {
            passing(places.map(|id| (id, weight(self.logits[id], self.highest, self.scale))), before, target)
        }
    }

    fn len(&self) -> usize {
        if self.listed { self.buffers.list.len() } else { self.logits.len() }
    }

    /// The highest logit of a candidate.
    fn top(&self) -> f32 {
        if !self.listed {
            return self.highest;
        }
        kernels::range(self.buffers.list.logits()).1
    }

    /// The sum of all weights; leaves those of blocks in `block_mass`.
    fn total(&mut self) -> f64 {
        if !self.listed {
            return self.masses(self.scale);
        }
        let Buffers { block_mass, list, .. } = &mut *self.buffers;
        block_mass.clear();
        block_mass.extend(list.weights().chunks(BLOCK).map(|block| kernels::mass_from(block, block, 0.0).1));
        block_mass.iter().sum()
    }

    /// The same for the whole row, at any temperature.
    fn masses(&mut self, scale: f32) -> f64 {
        let block_mass = &mut self.buffers.block_mass;
        block_mass.resize(self.logits.len().div_ceil(BLOCK), 0.0);
        kernels::masses(self.logits, self.highest, scale, block_mass);
        block_mass.iter().sum()
    }

    /// The mean of (logit - highest) * scale under the probabilities.
    fn mean_exponent(&self, total: f64) -> f64 {
        let sum: f64 = if self.listed {
            kernels::surprise(self.buffers.list.logits(), self.highest, self.scale)
        } else {
            kernels::surprise(self.logits, self.highest, self.scale)
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
        let logit = f64::from(self.highest) + (weight.log2() - 1e-3) / f64::from(self.scale);
        (logit as f32).next_down()
    }

    fn exponent(&self, logit: f32) -> f64 {
        exponent(logit, self.highest, self.scale)
    }

    /// A bound that the `count` highest logits reach: that many blocks have a maximum at least as high.
    fn bound_of_count(&self, count: usize) -> f32 {
        let block_max = &self.buffers.block_max;
        if count > block_max.len() {
            return f32::MIN;
        }
        let reach = |bound| kernels::count_from(block_max, bound);
        let mut width = 1.0;
        while reach(self.highest - width) < count {
            width *= 2.0;
        }
        let (mut low, mut high) = (self.highest - width, self.highest);
        for _ in 0..HALVINGS {
            let middle = low / 2.0 + high / 2.0;
            let reached = reach(middle);
            if reached < count {
                high = middle;
                continue;
            }
            low = middle;
            if reached <= count + count / 8 {
                break;
            }
        }
        low.max(f32::MIN)
    }

    /// A bound above which candidates of the whole row hold the mass `target`, as their blocks show; at least `low`,
    /// which is such a bound.
    fn bound_of_mass(&mut self, target: f64, mut low: f32) -> f32 {
        /// What rounding may do to the sums.
        const SLACK: f64 = 1.0 + 1e-4;
        let Buffers { block_max, block_mass, block_top, block_weight, .. } = &mut *self.buffers;
        block_top.resize(block_max.len(), 0.0);
        kernels::weigh(block_max, self.highest, self.scale, block_top);
        block_weight.clear();
        block_weight.extend(block_mass.iter().map(|&mass| mass as f32));
        let mut high = self.highest;
        for _ in 0..HALVINGS / 2 {
            let middle = low / 2.0 + high / 2.0;
            let below = (BLOCK - 1) as f32 * weight(middle, self.highest, self.scale);
            let held = kernels::mass_at_least(block_max, block_top, block_weight, middle, below);
            if f64::from(held) >= target * SLACK {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Lists all candidates; -inf is none.
    fn list_all(&mut self) {
        if !self.listed {
            self.keep_from(f32::MIN);
        }
    }

    /// Keeps candidates whose logit is at least `bound`.
    fn keep_from(&mut self, bound: f32) {
        let Buffers { block_max, list, .. } = &mut *self.buffers;
        if self.listed {
            list.keep_from(bound);
            return;
        }
        list.collect(self.logits, block_max, bound);
        list.weigh(self.highest, self.scale);
        self.listed = true;
    }
}

fn exponent(logit: f32, highest: f32, scale: f32) -> f64 {
    f64::from((logit - highest) * scale)
}

fn weight(logit: f32, highest: f32, scale: f32) -> f32 {
    exp2((logit - highest) * scale)
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
