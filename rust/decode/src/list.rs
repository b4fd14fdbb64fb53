//! The candidates of a row that a stage has narrowed, in the order of their ids, one array for each of their parts.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use crate::kernels::{self, BLOCK, LANES};

/// So few candidates are sorted rather than halved further.
const FEW: usize = 32;

/// A token and its logit, with the key that a stage orders by.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    key: f32,
    logit: f32,
    id: u32,
    weight: f32,
}

impl Candidate {
    /// Higher keys first, of equal ones higher logits, of equal ones lower ids. No part is NaN.
    fn rank(&self, other: &Self) -> Ordering {
        let keys = other.key.partial_cmp(&self.key).unwrap_or(Ordering::Equal);
        keys.then_with(|| rank((self.logit, self.id), (other.logit, other.id)))
    }
}

/// The order of most stages: higher logits first, of equal ones lower ids.
pub fn rank(a: (f32, u32), b: (f32, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

/// What a list is ordered by.
pub enum Key<'a> {
    /// The logits.
    Logit,
    /// The key of each logit.
    Of(&'a dyn Fn(f32) -> f32),
}

/// Candidates. The arrays keep the length they once had; `len` of each are in use.
#[derive(Clone, Debug, Default)]
pub struct List {
    ids: Vec<u32>,
    logits: Vec<f32>,
    weights: Vec<f32>,
    keys: Vec<f32>,
    len: usize,
    few: Vec<Candidate>,
}

impl List {
    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Their tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.len]
    }

    /// Their logits.
    pub fn logits(&self) -> &[f32] {
        &self.logits[..self.len]
    }

    /// Their shares, up to a common factor.
    pub fn weights(&self) -> &[f32] {
        &self.weights[..self.len]
    }

    /// Becomes the list of all of `logits` that are at least `bound`, `block_max` having the highest of each block.
    pub fn collect(&mut self, logits: &[f32], block_max: &[f32], bound: f32) {
        let room = logits.len() + BLOCK;
        if self.ids.len() < room {
            self.ids.resize(room, 0);
            self.logits.resize(room, 0.0);
            self.weights.resize(room, 0.0);
        }
        self.len = kernels::collect(logits, block_max, bound, &mut self.ids, &mut self.logits);
    }

    /// Gives every candidate the weight 2^((logit - highest) * scale).
    pub fn weigh(&mut self, highest: f32, scale: f32) {
        kernels::weigh(&self.logits[..self.len], highest, scale, &mut self.weights[..self.len]);
    }

    /// Keeps the candidates with a logit of at least `bound`.
    pub fn keep_from(&mut self, bound: f32) {
        let Self { ids, logits, weights, len, .. } = self;
        *len = kernels::keep_from(&mut logits[..*len], &mut weights[..*len], &mut ids[..*len], bound);
    }

    /// Keeps the candidates that `keep(logit, id, weight, place)` says.
    pub fn retain(&mut self, keep: impl Fn(f32, u32, f32, usize) -> bool) {
        let mut kept = 0;
        for place in 0..self.len {
            let (logit, id, weight) = (self.logits[place], self.ids[place], self.weights[place]);
            // Without a branch: what is not kept is written over by the next.
            (self.logits[kept], self.ids[kept], self.weights[kept]) = (logit, id, weight);
            kept += usize::from(keep(logit, id, weight, place));
        }
        self.len = kept;
    }

    /// Keeps the `count` first by rank.
    pub fn keep_count(&mut self, count: usize) {
        if count >= self.len {
            return;
        }
        self.copy_few(f32::NEG_INFINITY..=f32::INFINITY, &Key::Logit);
        let (_, &mut last, _) = self.few.select_nth_unstable_by(count - 1, Candidate::rank);
        self.keep_through(last);
    }

    /// Keeps the shortest run of candidates, at least one, whose weights reach `target`: higher keys first, equal ones by
    /// rank. No sorting: the key where it ends is closed in on by halving, and only what is left between is sorted.
    pub fn keep_mass(&mut self, target: f64, key: &Key<'_>) {
        if let Key::Of(key) = key {
            self.keys.clear();
            self.keys.extend(self.logits[..self.len].iter().map(|&logit| key(logit)));
        }
        let keys = if let Key::Of(_) = key { &self.keys } else { &self.logits[..self.len] };
        let (mut low, highest) = kernels::range(keys);
        let mut high = highest.next_up();
        let (mut until_low, mut until_high, mut mass) = (self.len, 0, 0.0);
        while until_low - until_high > FEW {
            let middle = low / 2.0 + high / 2.0;
            if middle <= low || middle >= high {
                break;
            }
            let (until_middle, mass_to_middle) = kernels::mass_from(keys, &self.weights[..self.len], middle);
            if mass_to_middle >= target {
                (low, until_low) = (middle, until_middle);
            } else {
                (high, until_high, mass) = (middle, until_middle, mass_to_middle);
            }
        }
        self.copy_few(low..=high.next_down(), key);
        self.few.sort_unstable_by(Candidate::rank);
        let reaches = self.few.iter().find(|candidate| {
            mass += f64::from(candidate.weight);
            mass >= target
        });
        let Some(&last) = reaches.or(self.few.last()) else { return };
        match key {
            Key::Logit => self.keep_through(last),
            Key::Of(_) => {
                let keys = std::mem::take(&mut self.keys);
                self.retain(|logit, id, weight, place| {
                    let candidate = Candidate { key: keys[place], logit, id, weight };
                    candidate.rank(&last) != Ordering::Greater
                });
                self.keys = keys;
            }
        }
    }

    /// Writes the candidates to `first` by rank, without those of -inf.
    pub fn sorted(&mut self, first: &mut Vec<(i32, f32)>) {
        self.copy_few(f32::MIN..=f32::MAX, &Key::Logit);
        self.few.sort_unstable_by(Candidate::rank);
        first.clear();
        first.extend(self.few.iter().map(|candidate| (candidate.id as i32, candidate.logit)));
    }

    /// Keeps the candidates up to `last` by rank.
    fn keep_through(&mut self, last: Candidate) {
        self.keep_from(last.logit);
        let ties = self.logits().iter().filter(|&&logit| logit == last.logit).count();
        if ties > 1 {
            self.retain(|logit, id, _, _| rank((logit, id), (last.logit, last.id)) != Ordering::Greater);
        }
    }

    /// Fills `few` with the candidates whose key lies in `wanted`.
    fn copy_few(&mut self, wanted: RangeInclusive<f32>, key: &Key<'_>) {
        let keys = if let Key::Of(_) = key { &self.keys } else { &self.logits };
        self.few.clear();
        for (group, keys) in keys[..self.len].chunks(LANES).enumerate() {
            // Most groups hold none: a branch for each, not for each candidate.
            if !keys.iter().fold(false, |any, key| any | wanted.contains(key)) {
                continue;
            }
            for (place, &key) in (group * LANES..).zip(keys) {
                if wanted.contains(&key) {
                    let (logit, id, weight) = (self.logits[place], self.ids[place], self.weights[place]);
                    self.few.push(Candidate { key, logit, id, weight });
                }
            }
        }
    }
}
