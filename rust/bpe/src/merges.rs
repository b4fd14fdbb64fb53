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

/// Up to here looking through all pairs for the earliest is faster than a heap.
const SHORT: usize = 48;
/// Merges between two looks at the cancel flag.
const CHECK: usize = 1 << 16;
const NONE: u32 = u32::MAX;

/// From a pair of ids to the rank of its merge and the id that it makes: open addressing, at most half full.
#[derive(Debug)]
pub struct PairTable {
    slots: Vec<Slot>,
    shift: u32,
    used: usize,
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
        Self { slots: vec![EMPTY; size], shift: 64 - size.trailing_zeros(), used: 0 }
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
        true
    }

    fn grow(&mut self) {
        let mut larger = Self::with_capacity(self.slots.len());
        for slot in self.slots.iter().filter(|slot| slot.result != NONE) {
            let at = larger.find(slot.left, slot.right);
            larger.slots[at] = *slot;
        }
        larger.used = self.used;
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
        scratch.ids.clear();
        scratch.ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
        if piece.len() <= SHORT {
            self.merge_short(scratch);
            out.extend_from_slice(&scratch.ids);
            return Ok(());
        }
        if u32::try_from(piece.len()).is_err() {
            return Err(Error::PieceTooLong(piece.len()));
        }
        self.merge_long(scratch, cancel)?;
        let mut at = 0;
        while at < scratch.ids.len() {
            out.push(scratch.ids[at]);
            at = scratch.after[at] as usize;
        }
        Ok(())
    }

    /// O(n²) in the length, with the smallest constant.
    fn merge_short(&self, scratch: &mut Scratch) {
        let Scratch { ids, ranks, .. } = scratch;
        ranks.clear();
        ranks.extend(ids.windows(2).map(|pair| self.get(pair[0], pair[1]).0));
        loop {
            let mut best = NONE;
            let mut at = 0;
            for (index, &rank) in ranks.iter().enumerate() {
                if rank < best {
                    (best, at) = (rank, index);
                }
            }
            if best == NONE {
                return;
            }
            ids[at] = self.get(ids[at], ids[at + 1]).1;
            ids.remove(at + 1);
            ranks.remove(at);
            if at < ranks.len() {
                ranks[at] = self.get(ids[at], ids[at + 1]).0;
            }
            if at > 0 {
                ranks[at - 1] = self.get(ids[at - 1], ids[at]).0;
            }
        }
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
        fn short_and_long_merging_follow_the_definition(table in merges(), text in "[a-d]{2,200}") {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let expected = definition(&table, ids.clone());
            let mut scratch = Scratch { ids: ids.clone(), ..Scratch::default() };
            table.merge_short(&mut scratch);
            prop_assert_eq!(&scratch.ids, &expected);

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
