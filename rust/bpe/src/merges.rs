//! The merges and the encoding of one pre-token by them.
//!
//! Definition: while some adjacent pair has a merge, replace the leftmost pair of those whose merge is earliest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::{Cancel, Error};

/// `left` and `right`, side by side, become `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Id of the left token.
    pub left: u32,
    /// Id of the right token.
    pub right: u32,
    /// Id of what they become.
    pub result: u32,
}

/// Up to here looking through all pairs for the earliest is faster than a heap; longer pieces are encoded by
/// windows of as many bytes.
const SHORT: usize = 64;
/// Most pieces are no longer than this, and less to look through.
const TINY: usize = 16;
/// Bits for a place in a window; the rest of a key is the rank.
const PLACE_BITS: u32 = SHORT.trailing_zeros();
/// Ranks from here on do not fit in a key.
const RANKS: u32 = 1 << (31 - PLACE_BITS);
/// How often a seam between windows is tried, and how many bytes a window must bring.
const SEAMS: usize = 4;
const LEAST: usize = SHORT / 4;
/// Merges between two looks at the cancel flag.
const CHECK: usize = 1 << 16;
const NONE: u32 = u32::MAX;

/// From a pair of ids to the rank of its merge and the id that it makes: open addressing, at most half full.
#[derive(Debug)]
pub struct PairTable {
    slots: Vec<Slot>,
    shift: u32,
    used: usize,
    largest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    left: u32,
    right: u32,
    rank: u32,
    result: u32,
}

const EMPTY: Slot = Slot { left: NONE, right: NONE, rank: NONE, result: NONE };

impl PairTable {
    /// An empty table with room for `merges`.
    pub fn with_capacity(merges: usize) -> Self {
        let size = (merges * 2).next_power_of_two().max(16);
        Self { slots: vec![EMPTY; size], shift: 64 - size.trailing_zeros(), used: 0, largest: 0 }
    }

    /// Adds a merge; false if the pair has one already.
    pub fn insert(&mut self, merge: Merge, rank: u32) -> bool {
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let at = self.find(merge.left, merge.right);
        if self.slots[at].result != NONE {
            return false;
        }
        self.slots[at] = Slot { left: merge.left, right: merge.right, rank, result: merge.result };
        self.used += 1;
        self.largest = self.largest.max(rank);
        true
    }

    fn grow(&mut self) {
        let mut larger = Self::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|slot| slot.result != NONE) {
            let at = larger.find(slot.left, slot.right);
            larger.slots[at] = *slot;
        }
        (larger.used, larger.largest) = (self.used, self.largest);
        *self = larger;
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        loop {
            let slot = &self.slots[at];
            if slot.result == NONE || (slot.left == left && slot.right == right) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Rank and result of a pair's merge; the rank of a pair without one is `u32::MAX`.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let slot = &self.slots[self.find(left, right)];
        (slot.rank, slot.result)
    }
}

/// Buffers for [`PairTable::merge`], kept between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    before: Vec<u32>,
    after: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Scratch {
    /// Gives back memory that one very long pre-token took.
    pub fn shrink(&mut self) {
        const KEEP: usize = 1 << 16;
        if self.ids.capacity() > KEEP || self.heap.capacity() > KEEP {
            *self = Self::default();
        }
    }
}

impl PairTable {
    /// Appends to `out` the ids that the merges make of `piece`, whose bytes have the ids `byte_ids`.
    pub fn merge(
        &self,
        piece: &[u8],
        byte_ids: &[u32; 256],
        scratch: &mut Scratch,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let known = out.len();
        if piece.len() <= TINY && self.largest < RANKS {
            let mut window = Window::<TINY>::new(piece, byte_ids);
            window.merge(self);
            window.write(window.starts, out);
            return Ok(());
        }
        if self.largest < RANKS && self.merge_by_windows(piece, byte_ids, cancel, out)? {
            return Ok(());
        }
        out.truncate(known);
        if u32::try_from(piece.len()).is_err() {
            return Err(Error::PieceTooLong(piece.len()));
        }
        scratch.ids.clear();
        scratch.ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
        self.merge_long(scratch, cancel)?;
        let mut at = 0;
        while at < scratch.ids.len() {
            out.push(scratch.ids[at]);
            at = scratch.after[at] as usize;
        }
        Ok(())
    }

    /// O(n): windows that overlap, each encoded alone, the next from the start of one of the ids of the last. Where it
    /// gives that id again, the ids around the seam are neighbours in one window's encoding; and ids of which all
    /// neighbours are so are the encoding of the whole (docs/bpe.md). False if no such seam is found.
    fn merge_by_windows(
        &self,
        piece: &[u8],
        byte_ids: &[u32; 256],
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<bool, Error> {
        let window = |at: usize| {
            let mut window = Window::<SHORT>::new(&piece[at..piece.len().min(at + SHORT)], byte_ids);
            window.merge(self);
            window
        };
        let mut current = window(0);
        let mut at = 0;
        let mut steps = 0usize;
        while at + SHORT < piece.len() {
            steps += 1;
            if steps.is_multiple_of(CHECK / SHORT) {
                cancel.check()?;
            }
            // The last ids are those that more text could change.
            let starts = without_highest(without_highest(current.starts)) & !((1 << LEAST) - 1);
            let mut seams = std::iter::successors(Some(starts), |&starts| Some(without_highest(starts)));
            let next = seams.by_ref().take(SEAMS).take_while(|&starts| starts != 0).find_map(|starts| {
                let seam = SHORT - 1 - starts.leading_zeros() as usize;
                let next = window(at + seam);
                (next.ids[0] == current.ids[seam]).then_some((seam, next))
            });
            let Some((seam, next)) = next else {
                return Ok(false);
            };
            current.write(current.starts & ((1 << seam) - 1), out);
            at += seam;
            current = next;
        }
        current.write(current.starts, out);
        Ok(true)
    }

    /// O(n log n): a heap of (rank, place) over a linked list of places. An entry whose rank is no longer that of the
    /// pair at its place is out of date; `ranks` holds the current ones.
    fn merge_long(&self, scratch: &mut Scratch, cancel: &Cancel) -> Result<(), Error> {
        let Scratch { ids, ranks, before, after, heap } = scratch;
        let length = ids.len();
        before.clear();
        before.push(NONE);
        before.extend(0..length as u32 - 1);
        after.clear();
        after.extend(1..=length as u32);
        ranks.clear();
        ranks.extend(ids.windows(2).map(|pair| self.get(pair[0], pair[1]).0));
        ranks.push(NONE);
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        entries.extend((0..).zip(&*ranks).filter(|&(_, &rank)| rank != NONE).map(|(at, &rank)| Reverse((rank, at))));
        *heap = BinaryHeap::from(entries);

        let mut steps = 0usize;
        while let Some(Reverse((rank, at))) = heap.pop() {
            steps += 1;
            if steps.is_multiple_of(CHECK) {
                cancel.check()?;
            }
            let place = at as usize;
            if ranks[place] != rank {
                continue;
            }
            let right = after[place] as usize;
            ids[place] = self.get(ids[place], ids[right]).1;
            ranks[right] = NONE;
            after[place] = after[right];
            let next = after[place] as usize;
            if next < length {
                before[next] = at;
            }
            for (left, right) in [(before[place] as usize, place), (place, next)] {
                if left >= length {
                    continue;
                }
                ranks[left] = if right < length { self.get(ids[left], ids[right]).0 } else { NONE };
                if ranks[left] != NONE {
                    heap.push(Reverse((ranks[left], left as u32)));
                }
            }
        }
        Ok(())
    }
}

/// Some bytes on their way to ids: O(n²) in the length, with the smallest constant.
struct Window<const N: usize> {
    length: usize,
    /// At the place of its first byte each id of now.
    ids: [u32; N],
    /// What the pair that starts at a place becomes.
    results: [u32; N],
    /// Its rank and its place; `i32::MAX` where there is no pair or no merge of it.
    keys: [i32; N],
    /// A bit for each place where an id starts.
    starts: u64,
}

impl<const N: usize> Window<N> {
    fn new(bytes: &[u8], byte_ids: &[u32; 256]) -> Self {
        let mut ids = [0; N];
        for (id, &byte) in ids.iter_mut().zip(bytes) {
            *id = byte_ids[usize::from(byte)];
        }
        Self {
            length: bytes.len(),
            ids,
            results: [0; N],
            keys: [i32::MAX; N],
            starts: if bytes.is_empty() { 0 } else { u64::MAX >> (SHORT - bytes.len()) },
        }
    }

    fn merge(&mut self, table: &PairTable) {
        for left in 1..self.length {
            self.look_up(table, left - 1, left);
        }
        loop {
            let best = self.keys.iter().fold(i32::MAX, |best, &key| best.min(key));
            if best == i32::MAX {
                return;
            }
            let left = best as usize % SHORT;
            let Some(right) = self.after(left) else {
                return;
            };
            self.ids[left] = self.results[left];
            self.starts &= !(1 << right);
            self.keys[right] = i32::MAX;
            self.keys[left] = i32::MAX;
            if let Some(next) = self.after(left) {
                self.look_up(table, left, next);
            }
            let before = self.starts & ((1 << left) - 1);
            if before != 0 {
                self.look_up(table, SHORT - 1 - before.leading_zeros() as usize, left);
            }
        }
    }

    #[inline(always)]
    fn look_up(&mut self, table: &PairTable, left: usize, right: usize) {
        let (rank, result) = table.get(self.ids[left % N], self.ids[right % N]);
        self.results[left % N] = result;
        self.keys[left % N] = if rank == NONE { i32::MAX } else { (rank << PLACE_BITS | left as u32) as i32 };
    }

    #[inline(always)]
    fn after(&self, place: usize) -> Option<usize> {
        let later = self.starts & !(u64::MAX >> (SHORT - 1 - place));
        (later != 0).then(|| later.trailing_zeros() as usize)
    }

    fn write(&self, mut starts: u64, out: &mut Vec<u32>) {
        while starts != 0 {
            out.push(self.ids[starts.trailing_zeros() as usize]);
            starts &= starts - 1;
        }
    }
}

fn without_highest(bits: u64) -> u64 {
    if bits == 0 { 0 } else { bits & !(1 << (SHORT - 1 - bits.leading_zeros() as usize)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn definition(table: &PairTable, mut ids: Vec<u32>) -> Vec<u32> {
        loop {
            let best = ids.windows(2).enumerate().map(|(at, pair)| (table.get(pair[0], pair[1]), at)).min();
            match best {
                Some(((rank, result), at)) if rank != NONE => {
                    ids[at] = result;
                    ids.remove(at + 1);
                }
                _ => return ids,
            }
        }
    }

    /// Merges over the letters a to d and each other's results.
    fn merges() -> impl Strategy<Value = PairTable> {
        prop::collection::vec((0..40u32, 0..40u32), 1..40).prop_map(|pairs| {
            let mut table = PairTable::with_capacity(0);
            for (rank, (left, right)) in (0..).zip(pairs) {
                let limit = rank + 4;
                let letter = |id: u32| if id % limit < 4 { u32::from(b'a') + id % limit } else { 256 + id % limit - 4 };
                table.insert(Merge { left: letter(left), right: letter(right), result: 256 + rank }, rank);
            }
            table
        })
    }

    proptest! {
        #[test]
        fn windows_and_the_heap_follow_the_definition(table in merges(), text in "[a-d]{2,300}") {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let byte_ids = std::array::from_fn(|byte| byte as u32);
            let expected = definition(&table, ids.clone());

            let mut merged = Vec::new();
            table.merge(text.as_bytes(), &byte_ids, &mut Scratch::default(), &Cancel::new(), &mut merged).unwrap();
            prop_assert_eq!(&merged, &expected);

            let mut scratch = Scratch { ids, ..Scratch::default() };
            table.merge_long(&mut scratch, &Cancel::new()).unwrap();
            let mut long = Vec::new();
            let mut at = 0;
            while at < scratch.ids.len() {
                long.push(scratch.ids[at]);
                at = scratch.after[at] as usize;
            }
            prop_assert_eq!(&long, &expected);
        }
    }
}
