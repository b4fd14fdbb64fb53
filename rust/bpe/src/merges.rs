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

/// Up to this many bytes looking through all pairs for the earliest is faster than a heap.
const SHORT: usize = 16;
/// Bits for a place in a short piece; the rest of a key is the rank.
const PLACE_BITS: u32 = SHORT.trailing_zeros();
/// Ranks from here on do not fit in a key.
const RANKS: u32 = 1 << (31 - PLACE_BITS);
/// Merges between two looks at the cancel flag.
const CHECK: usize = 1 << 16;
/// Bits of the filter for each slot, at most half of which are used: one wrong answer in 16.
const FILTER_BITS: usize = 8;
const NONE: u32 = u32::MAX;

/// From a pair of ids to the rank of its merge and the id that it makes: open addressing, at most half full.
#[derive(Debug)]
pub struct PairTable {
    slots: Vec<Slot>,
    shift: u32,
    /// Bits set where a pair's hash points: most pairs that are asked for have no merge, and this stays in the
    /// processor's cache where the slots do not.
    filter: Vec<u64>,
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
        let filter = vec![0; size * FILTER_BITS / 64];
        Self { slots: vec![EMPTY; size], shift: 64 - size.trailing_zeros(), filter, used: 0, largest: 0 }
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
        self.fill(at, Slot { left: merge.left, right: merge.right, rank, result: merge.result });
        self.used += 1;
        self.largest = self.largest.max(rank);
        true
    }

    fn grow(&mut self) {
        let mut larger = Self::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|slot| slot.result != NONE) {
            let at = larger.find(slot.left, slot.right);
            larger.fill(at, *slot);
        }
        (larger.used, larger.largest) = (self.used, self.largest);
        *self = larger;
    }

    fn fill(&mut self, at: usize, slot: Slot) {
        self.slots[at] = slot;
        let bit = self.bit(hash(slot.left, slot.right));
        self.filter[bit / 64] |= 1 << (bit % 64);
    }

    #[inline(always)]
    fn bit(&self, hash: u64) -> usize {
        (hash >> (self.shift - FILTER_BITS.trailing_zeros())) as usize
    }

    #[inline]
    fn find(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (hash(left, right) >> self.shift) as usize;
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
        let bit = self.bit(hash(left, right));
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return (NONE, NONE);
        }
        let slot = &self.slots[self.find(left, right)];
        (slot.rank, slot.result)
    }
}

#[inline(always)]
fn hash(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
        if piece.len() <= SHORT && self.largest < RANKS {
            merge_short(self, piece, byte_ids, out);
            return Ok(());
        }
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

/// O(n²), with the smallest constant. At the place of its first byte stands each id of now, what the pair that starts
/// there becomes, and as its key its rank and place, `i32::MAX` where there is no pair or no merge of it.
fn merge_short(table: &PairTable, piece: &[u8], byte_ids: &[u32; 256], out: &mut Vec<u32>) {
    let (mut ids, mut results, mut keys) = ([0; SHORT], [0; SHORT], [i32::MAX; SHORT]);
    for (id, &byte) in ids.iter_mut().zip(piece) {
        *id = byte_ids[usize::from(byte)];
    }
    let look_up = |ids: &[u32; SHORT], keys: &mut [i32; SHORT], results: &mut [u32; SHORT], left, right| {
        let (rank, result) = table.get(ids[left % SHORT], ids[right % SHORT]);
        results[left % SHORT] = result;
        keys[left % SHORT] = if rank == NONE { i32::MAX } else { (rank << PLACE_BITS | left as u32) as i32 };
    };
    for right in 1..piece.len() {
        look_up(&ids, &mut keys, &mut results, right - 1, right);
    }
    let mut starts = (1u32 << piece.len()) - 1;
    let after = |starts: u32, place: usize| {
        let later = starts & !((2 << place) - 1);
        (later != 0).then(|| later.trailing_zeros() as usize)
    };
    loop {
        let best = keys.iter().fold(i32::MAX, |best, &key| best.min(key));
        let left = best as usize % SHORT;
        let Some(right) = after(starts, left).filter(|_| best != i32::MAX) else {
            break;
        };
        ids[left] = results[left];
        starts &= !(1 << right);
        (keys[left], keys[right]) = (i32::MAX, i32::MAX);
        if let Some(next) = after(starts, left) {
            look_up(&ids, &mut keys, &mut results, left, next);
        }
        let before = starts & ((1 << left) - 1);
        if before != 0 {
            look_up(&ids, &mut keys, &mut results, before.ilog2() as usize, left);
        }
    }
    while starts != 0 {
        out.push(ids[starts.trailing_zeros() as usize]);
        starts &= starts - 1;
    }
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
        fn both_ways_follow_the_definition(table in merges(), text in "[a-d]{2,40}") {
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
