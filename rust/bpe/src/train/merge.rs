//! The merges of a table of pre-tokens.
//!
//! Definition: as long as merges are wanted, count each pair of neighbours over all pre-tokens, take the pair with
//! the highest count (of those, the one with the smallest ids, left first), and replace its occurrences, from left to
//! right. Done step by step that takes a pass over the text for each merge. Here a merge visits only the places where
//! its pair stands, so the work is that of the changes: each place is visited at most once for each merge below it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustc_hash::FxHashMap;

use super::count::PieceCounts;
use crate::vocabulary::BYTE_ORDER;
use crate::{Cancel, Error};

/// Stands before, between and behind the pre-tokens.
const EDGE: u32 = u32::MAX;
/// Stands at the places inside a token, between its first and its last byte.
const INSIDE: u32 = u32::MAX - 1;
/// Places between two looks at the cancel flag.
const CHECK: usize = 1 << 18;

/// All pre-tokens, one slot a byte. A token's id stands at its first and at its last byte, so that a neighbour is
/// found in one step on either side.
struct Text {
    ids: Vec<u32>,
    /// Counts of the pre-tokens by place, up to the first place whose pre-token occurs once: from there on all do.
    weights: Vec<u64>,
    /// Bytes of a token by id.
    lengths: Vec<u32>,
}

struct Pair {
    count: u64,
    /// Where the pair stood when it was new, in order; some places may have changed since.
    places: Vec<u32>,
}

#[derive(PartialEq, Eq)]
struct Candidate {
    count: u64,
    left: u32,
    right: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |candidate: &Self| (candidate.count, Reverse((candidate.left, candidate.right)));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// About the bytes of memory that [`train`] takes for these counts.
pub fn memory(counts: &PieceCounts) -> u64 {
    // For each byte an id (4), a weight (8), at most three places (12) and its share of the pairs' tables.
    40 * (counts.total_bytes() + counts.len()) as u64
}

/// At most `wanted` merges, fewer if no pair occurs `min_frequency` times any more.
pub fn train(
    counts: PieceCounts,
    wanted: usize,
    min_frequency: u64,
    cancel: &Cancel,
    progress: &AtomicU64,
) -> Result<Vec<(u32, u32)>, Error> {
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let mut training = Training::new(counts, min_frequency, cancel)?;
    let mut merges = Vec::with_capacity(wanted);
    while merges.len() < wanted {
        let Some((left, right, places)) = training.take_best() else { break };
        training.merge(left, right, &places, cancel)?;
        merges.push((left, right));
        progress.store(merges.len() as u64, Relaxed);
    }
    Ok(merges)
}

struct Training {
    text: Text,
    pairs: FxHashMap<(u32, u32), Pair>,
    heap: BinaryHeap<Candidate>,
    min_frequency: u64,
    before: Neighbours,
    after: Neighbours,
}

impl Training {
    fn new(counts: PieceCounts, min_frequency: u64, cancel: &Cancel) -> Result<Self, Error> {
        let text = Text::new(counts)?;
        cancel.check()?;
        let mut training = Self {
            pairs: text.pairs(cancel)?,
            text,
            heap: BinaryHeap::new(),
            min_frequency,
            before: Neighbours::default(),
            after: Neighbours::default(),
        };
        training.pairs.retain(|_, pair| pair.count >= min_frequency);
        training.heap =
            training.pairs.iter().map(|(&(left, right), pair)| Candidate { count: pair.count, left, right }).collect();
        Ok(training)
    }

    /// The best pair, taken out. Counts of known pairs only fall, so a candidate whose count is no longer true goes
    /// back with the true one and nothing better is overlooked.
    fn take_best(&mut self) -> Option<(u32, u32, Vec<u32>)> {
        while let Some(Candidate { count, left, right }) = self.heap.pop() {
            let Some(pair) = self.pairs.get(&(left, right)) else { continue };
            if pair.count == count {
                let pair = self.pairs.remove(&(left, right))?;
                return Some((left, right, pair.places));
            }
            self.heap.push(Candidate { count: pair.count, left, right });
        }
        None
    }

    fn merge(&mut self, left: u32, right: u32, places: &[u32], cancel: &Cancel) -> Result<(), Error> {
        let new = self.text.lengths.len() as u32;
        self.text.lengths.push(self.text.lengths[left as usize] + self.text.lengths[right as usize]);
        self.before.clear(new);
        self.after.clear(new);
        for (number, &place) in places.iter().enumerate() {
            if number % CHECK == 0 {
                cancel.check()?;
            }
            self.text.replace(place, left, right, new, &mut self.before, &mut self.after);
        }
        // Where the new token follows itself, the pair (new, left) that stood there for a moment is gone again.
        let overlap = self.before.weight(new);
        self.after.reduce(left, overlap);
        for neighbour in self.before.found.iter().filter(|neighbour| neighbour.id != new) {
            lower(&mut self.pairs, (neighbour.id, left), neighbour.lost, self.min_frequency);
        }
        for neighbour in &self.after.found {
            lower(&mut self.pairs, (right, neighbour.id), neighbour.lost, self.min_frequency);
        }
        let min_frequency = self.min_frequency;
        let mut add = |pair: (u32, u32), count, places| {
            self.heap.push(Candidate { count, left: pair.0, right: pair.1 });
            self.pairs.insert(pair, Pair { count, places });
        };
        self.before.drain(min_frequency, |id, count, places| add((id, new), count, places));
        self.after.drain(min_frequency, |id, count, places| add((new, id), count, places));
        Ok(())
    }
}

fn lower(pairs: &mut FxHashMap<(u32, u32), Pair>, key: (u32, u32), lost: u64, min_frequency: u64) {
    if let Some(pair) = pairs.get_mut(&key) {
        pair.count = pair.count.saturating_sub(lost);
        // It will never be merged: counts do not rise.
        if pair.count < min_frequency {
            pairs.remove(&key);
        }
    }
}

impl Text {
    fn new(counts: PieceCounts) -> Result<Self, Error> {
        let slots = counts.total_bytes() + counts.len() + 1;
        if slots >= INSIDE as usize {
            return Err(Error::Argument(format!(
                "source: its distinct pre-tokens take {} bytes, the limit is {INSIDE}",
                counts.total_bytes()
            )));
        }
        let mut byte_ids = [0; 256];
        for (id, &byte) in (0..).zip(&BYTE_ORDER) {
            byte_ids[usize::from(byte)] = id;
        }
        let mut text = Self { ids: Vec::with_capacity(slots), weights: vec![0], lengths: vec![1; 256] };
        text.ids.push(EDGE);
        for (piece, count) in counts.iter().filter(|&(_, count)| count > 1) {
            text.push(piece, &byte_ids);
            text.weights.resize(text.ids.len(), count);
        }
        for (piece, _) in counts.iter().filter(|&(_, count)| count == 1) {
            text.push(piece, &byte_ids);
        }
        Ok(text)
    }

    fn push(&mut self, piece: &[u8], byte_ids: &[u32; 256]) {
        self.ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
        self.ids.push(EDGE);
    }

    fn weight(&self, place: usize) -> u64 {
        self.weights.get(place).copied().unwrap_or(1)
    }

    /// All pairs of bytes.
    fn pairs(&self, cancel: &Cancel) -> Result<FxHashMap<(u32, u32), Pair>, Error> {
        let mut occurrences = vec![0usize; 1 << 16];
        self.visit_neighbours(cancel, |_, key| occurrences[key] += 1)?;
        let mut pairs: Vec<Pair> =
            occurrences.iter().map(|&number| Pair { count: 0, places: Vec::with_capacity(number) }).collect();
        self.visit_neighbours(cancel, |place, key| {
            pairs[key].count += self.weight(place as usize);
            pairs[key].places.push(place);
        })?;
        let keyed = (0u32..).zip(pairs).filter(|(_, pair)| pair.count > 0);
        Ok(keyed.map(|(key, pair)| ((key >> 8, key & 0xff), pair)).collect())
    }

    /// Gives place and key (of 16 bits) of each two bytes side by side.
    fn visit_neighbours(&self, cancel: &Cancel, mut visit: impl FnMut(u32, usize)) -> Result<(), Error> {
        for (place, pair) in (0u32..).zip(self.ids.windows(2)) {
            if place as usize % CHECK == 0 {
                cancel.check()?;
            }
            if pair[0] != EDGE && pair[1] != EDGE {
                visit(place, (pair[0] as usize) << 8 | pair[1] as usize);
            }
        }
        Ok(())
    }

    /// Makes one token of `left` and `right` at `place`, if they still stand there, and notes the neighbours.
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
        let middle = start + self.lengths[left as usize] as usize;
        if self.ids[start] != left || self.ids[middle] != right {
            return;
        }
        let end = middle + self.lengths[right as usize] as usize;
        let weight = self.weight(start);
        self.ids[middle - 1] = INSIDE;
        self.ids[middle] = INSIDE;
        self.ids[start] = new;
        self.ids[end - 1] = new;
        let previous = self.ids[start - 1];
        if previous != EDGE {
            before.note(previous, weight, place - self.lengths[previous as usize]);
        }
        let next = self.ids[end];
        if next != EDGE {
            after.note(next, weight, place);
        }
    }
}

/// The tokens met on one side of a new token, with the places of the pairs they form with it.
#[derive(Default)]
struct Neighbours {
    found: Vec<Neighbour>,
    /// By id, its number in `found` plus one.
    numbers: Vec<u32>,
    events: Vec<(u32, u32)>,
}

struct Neighbour {
    id: u32,
    /// What the pair with the old token lost.
    lost: u64,
    /// What the pair with the new token has.
    count: u64,
    occurrences: usize,
}

impl Neighbours {
    /// Ready for the new token `new`, the highest id that will be met.
    fn clear(&mut self, new: u32) {
        self.found.clear();
        self.events.clear();
        self.numbers.resize(new as usize + 1, 0);
    }

    fn note(&mut self, id: u32, weight: u64, place: u32) {
        let number = &mut self.numbers[id as usize];
        if *number == 0 {
            self.found.push(Neighbour { id, lost: 0, count: 0, occurrences: 0 });
            *number = self.found.len() as u32;
        }
        let neighbour = &mut self.found[*number as usize - 1];
        neighbour.lost += weight;
        neighbour.count += weight;
        neighbour.occurrences += 1;
        self.events.push((*number - 1, place));
    }

    fn weight(&self, id: u32) -> u64 {
        match self.numbers[id as usize] {
            0 => 0,
            number => self.found[number as usize - 1].count,
        }
    }

    fn reduce(&mut self, id: u32, weight: u64) {
        if let Some(number) = self.numbers[id as usize].checked_sub(1) {
            self.found[number as usize].count -= weight;
        }
    }

    /// Gives id, count and places of each pair that occurs often enough.
    fn drain(&mut self, min_frequency: u64, mut give: impl FnMut(u32, u64, Vec<u32>)) {
        let mut places: Vec<Vec<u32>> =
            self.found
                .iter()
                .map(|neighbour| {
                    if neighbour.count >= min_frequency {
                        Vec::with_capacity(neighbour.occurrences)
                    } else {
                        Vec::new()
                    }
                })
                .collect();
        for &(number, place) in &self.events {
            if self.found[number as usize].count >= min_frequency {
                places[number as usize].push(place);
            }
        }
        for (neighbour, places) in self.found.iter().zip(places) {
            self.numbers[neighbour.id as usize] = 0;
            if neighbour.count >= min_frequency {
                give(neighbour.id, neighbour.count, places);
            }
        }
    }
}
