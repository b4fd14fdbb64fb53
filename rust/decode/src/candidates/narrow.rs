//! What stages do to candidates: each keeps some, found by a bound on their logits rather than by an order of them.

use std::cmp::Ordering;

use super::{Buffers, Candidates, exponent, weight};
use crate::kernels::{self, BLOCK};
use crate::list::{Key, rank};

/// Halvings of the range in which a bound is looked for: a looser bound costs a few more candidates.
const HALVINGS: usize = 16;

impl Candidates<'_> {
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
    pub(super) fn list_all(&mut self) {
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
