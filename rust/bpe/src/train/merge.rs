//! The merges of a table of pre-tokens.
//!
//! Definition: as long as merges are wanted, count each pair of neighbours over all pre-tokens, take the pair with
//! the highest count (of those, the one with the smallest ids, left first), and replace its occurrences, from left to
//! right. Done step by step that takes a pass over the text for each merge. Here a merge visits only the places where
//! its pair stands, and only pairs that may come next are kept: see the stages in docs/bpe.md.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::hash::Key;
use super::neighbours::Neighbours;
use super::pairs::{Pairs, pair_key};
use super::text::{CHECK, Id, Text};
use crate::{Cancel, Error};

/// What to look for.
pub struct Wanted {
    pub merges: usize,
    pub min_frequency: u64,
    /// The id of the first merge's token.
    pub first_id: u32,
    /// Places of pairs that may be kept at a time.
    pub places: usize,
    /// Pairs that may be looked at at a time, and the promise that this comes from.
    pub pairs: usize,
    pub max_memory: u64,
}

/// A stage takes pairs down to this part of the highest count.
const FACTOR: u64 = 8;
/// Buckets of the sketch, at most.
const SKETCH: usize = 1 << 20;

struct Training<'a, I> {
    text: Text<I>,
    pairs: Pairs,
    /// Count and key of pairs; the count may be too high.
    heap: BinaryHeap<(u64, Reverse<u64>)>,
    wanted: &'a Wanted,
    /// Pairs that are less frequent are not in `pairs`.
    threshold: u64,
    /// No pair is more frequent.
    bound: u64,
    found: Vec<(u32, u32)>,
    before: Neighbours,
    after: Neighbours,
    cancel: &'a Cancel,
}

/// As many merges as wanted, fewer if no pair is frequent enough any more.
pub fn train<I: Id>(
    text: Text<I>,
    wanted: &Wanted,
    cancel: &Cancel,
    progress: &AtomicU64,
) -> Result<Vec<(u32, u32)>, Error> {
    let mut training = Training {
        text,
        pairs: Pairs::new(),
        heap: BinaryHeap::new(),
        wanted,
        threshold: u64::MAX,
        bound: u64::MAX,
        found: Vec::with_capacity(wanted.merges),
        before: Neighbours::default(),
        after: Neighbours::default(),
        cancel,
    };
    let mut full = 0;
    while training.found.len() < wanted.merges {
        let best = if training.pairs.places.len() > full { None } else { training.take_best() };
        let Some((key, start, length)) = best else {
            if training.heap.is_empty() && training.threshold < u64::MAX {
                training.bound = training.threshold - 1;
            }
            if !training.start_stage()? {
                break;
            }
            full = training.pairs.places.len() + training.text.ids.len().max(CHECK);
            continue;
        };
        training.merge(key, start, length)?;
        progress.store(training.found.len() as u64, Relaxed);
    }
    Ok(training.found)
}

impl<I: Id> Training<'_, I> {
    /// Collects the pairs that occur `threshold` times, for a new threshold; false if there are none at all.
    fn start_stage(&mut self) -> Result<bool, Error> {
        self.heap.clear();
        self.pairs.clear();
        self.text.compact(self.cancel)?;
        let sketch = Sketch::new(&self.text, self.cancel)?;
        let mut most = sketch.most().min(self.bound);
        while most >= self.wanted.min_frequency {
            self.threshold = (most / FACTOR).max(self.wanted.min_frequency);
            while !self.count(&sketch)? {
                self.raise(most)?;
            }
            if self.choose() {
                self.collect(&sketch)?;
                return Ok(true);
            }
            most = self.threshold - 1;
        }
        Ok(false)
    }

    /// Looks at fewer pairs.
    fn raise(&mut self, most: u64) -> Result<(), Error> {
        if self.threshold == most {
            return Err(Error::Memory {
                limit: self.wanted.max_memory,
                needed: self.wanted.max_memory.saturating_mul(2),
                distinct: self.text.ids.len() as u64,
            });
        }
        self.threshold = self.threshold.saturating_mul(2).min(most);
        Ok(())
    }

    /// Counts the pairs that may reach the threshold; false if these are too many.
    fn count(&mut self, sketch: &Sketch) -> Result<bool, Error> {
        let frequent = sketch.reaching(self.threshold);
        let pairs = &mut self.pairs;
        let most = self.wanted.pairs;
        pairs.clear();
        self.text.for_each_pair(self.cancel, |_, left, right, weight| {
            if pairs.len() <= most && frequent.has(sketch.bucket(left, right)) {
                let pair = pairs.entry(pair_key(left, right));
                pair.count = pair.count.saturating_add(weight);
                pair.length += 1;
            }
        })?;
        Ok(pairs.len() <= most)
    }

    /// Raises the threshold to what is worth keeping and forgets the other pairs; false if none is left.
    fn choose(&mut self) -> bool {
        let threshold = self.threshold;
        let mut counts: Vec<(u64, u32)> = self
            .pairs
            .iter_mut()
            .filter(|(_, pair)| pair.count >= threshold)
            .map(|(_, pair)| (pair.count, pair.length))
            .collect();
        counts.sort_unstable_by_key(|&(count, _)| Reverse(count));
        let Some(&(most, _)) = counts.first() else { return false };
        let enough = 2 * (self.wanted.merges - self.found.len()) + 1000;
        let mut places = 0;
        for (number, &(count, length)) in counts.iter().enumerate() {
            places += length as usize;
            if number >= enough || places > self.wanted.places {
                self.threshold = (count + 1).min(most);
                break;
            }
        }
        true
    }

    fn collect(&mut self, sketch: &Sketch) -> Result<(), Error> {
        let mut end = 0;
        for (key, pair) in self.pairs.iter_mut() {
            if pair.count < self.threshold {
                pair.count = 0;
                continue;
            }
            self.heap.push((pair.count, Reverse(key)));
            pair.start = end;
            end += std::mem::take(&mut pair.length);
        }
        let mut places = std::mem::take(&mut self.pairs.places);
        places.resize(end as usize, 0);
        let pairs = &mut self.pairs;
        let frequent = sketch.reaching(self.threshold);
        self.text.for_each_pair(self.cancel, |place, left, right, _| {
            if frequent.has(sketch.bucket(left, right))
                && let Some(pair) = pairs.get(pair_key(left, right))
                && pair.count > 0
            {
                places[(pair.start + pair.length) as usize] = place;
                pair.length += 1;
            }
        })?;
        self.pairs.places = places;
        Ok(())
    }

    /// The best pair, taken out: its key and its places. Counts of known pairs only fall, so a candidate whose count
    /// is no longer true goes back with the true one and nothing better is overlooked.
    fn take_best(&mut self) -> Option<(u64, u32, u32)> {
        while let Some((count, Reverse(key))) = self.heap.pop() {
            let pair = self.pairs.get(key)?;
            if pair.count == count {
                pair.count = 0;
                return Some((key, pair.start, pair.length));
            }
            // It will not be merged in this stage if it is too rare: counts do not rise.
            if pair.count >= self.threshold {
                self.heap.push((pair.count, Reverse(key)));
            }
        }
        None
    }

    fn merge(&mut self, key: u64, start: u32, length: u32) -> Result<(), Error> {
        let (left, right) = ((key >> 32) as u32, key as u32);
        let new = self.wanted.first_id + self.found.len() as u32;
        self.found.push((left, right));
        let width = |id: u32| self.text.widths[id as usize];
        let width = width(left) + width(right);
        self.text.widths.resize(new as usize + 1, 1);
        self.text.widths[new as usize] = width;
        self.before.clear(new);
        self.after.clear(new);
        let all = start as usize..start as usize + length as usize;
        for (number, &place) in self.pairs.places[all].iter().enumerate() {
            if number % CHECK == 0 {
                self.cancel.check()?;
            }
            self.text.replace(place, left, right, new, &mut self.before, &mut self.after);
        }
        // Where the new token follows itself, the pair (new, left) that stood there for a moment is gone again.
        self.after.reduce(left, self.before.count(new));
        for neighbour in self.before.found.iter().filter(|neighbour| neighbour.id != new) {
            lower(&mut self.pairs, pair_key(neighbour.id, left), neighbour.lost);
        }
        for neighbour in &self.after.found {
            lower(&mut self.pairs, pair_key(right, neighbour.id), neighbour.lost);
        }
        let mut places = std::mem::take(&mut self.pairs.places);
        let mut add = |key, count, start, length| {
            self.heap.push((count, Reverse(key)));
            let pair = self.pairs.entry(key);
            (pair.count, pair.start, pair.length) = (count, start, length);
        };
        self.before.place(self.threshold, &mut places, |id, count, start, length| {
            add(pair_key(id, new), count, start, length);
        });
        self.after.place(self.threshold, &mut places, |id, count, start, length| {
            add(pair_key(new, id), count, start, length);
        });
        self.pairs.places = places;
        Ok(())
    }
}

fn lower(pairs: &mut Pairs, key: u64, lost: u64) {
    if let Some(pair) = pairs.get(key) {
        pair.count = pair.count.saturating_sub(lost);
    }
}

impl<I: Id> Text<I> {
    /// Puts `new` for `left right` at `place`, if they still stand there.
    #[inline]
    fn replace(
        &mut self,
        place: u32,
        left: u32,
        right: u32,
        new: u32,
        before: &mut Neighbours,
        after: &mut Neighbours,
    ) {
        let start = place as usize;
        let middle = start + self.widths[left as usize] as usize;
        if self.ids[start] != I::new(left) || self.ids[middle] != I::new(right) {
            return;
        }
        let end = middle + self.widths[right as usize] as usize;
        let weight = self.weight(start);
        self.ids[middle - 1] = I::INSIDE;
        self.ids[middle] = I::INSIDE;
        self.ids[start] = I::new(new);
        self.ids[end - 1] = I::new(new);
        let previous = self.ids[start - 1];
        if previous != I::EDGE {
            before.note(previous.get(), weight, place - self.widths[previous.get() as usize]);
        }
        let next = self.ids[end];
        if next != I::EDGE {
            after.note(next.get(), weight, place);
        }
    }
}

/// An upper bound of each pair's count: pairs that share a bucket are counted together.
struct Sketch {
    buckets: Vec<u64>,
    key: Key,
    shift: u32,
}

impl Sketch {
    fn new<I: Id>(text: &Text<I>, cancel: &Cancel) -> Result<Self, Error> {
        let size = (text.ids.len() / 2).next_power_of_two().clamp(1 << 12, SKETCH);
        let mut sketch = Self { buckets: vec![0; size], key: Key::random(), shift: 64 - size.trailing_zeros() };
        text.for_each_pair(cancel, |_, left, right, weight| {
            let bucket = sketch.bucket(left, right);
            sketch.buckets[bucket] = sketch.buckets[bucket].saturating_add(weight);
        })?;
        Ok(sketch)
    }

    #[inline]
    fn bucket(&self, left: u32, right: u32) -> usize {
        (self.key.words(pair_key(left, right), 0) >> self.shift) as usize
    }

    fn most(&self) -> u64 {
        self.buckets.iter().copied().max().unwrap_or(0)
    }

    fn reaching(&self, threshold: u64) -> Bits {
        let mut bits = Bits(vec![0; self.buckets.len() / 64]);
        for (number, _) in self.buckets.iter().enumerate().filter(|&(_, &count)| count >= threshold) {
            bits.0[number / 64] |= 1 << (number % 64);
        }
        bits
    }
}

struct Bits(Vec<u64>);

impl Bits {
    #[inline]
    fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 != 0
    }
}
