//! The distinct pre-tokens as one array of ids.

use std::collections::BTreeMap;

use super::count::PieceCounts;
use super::start::Start;
use crate::{Allowed, Cancel, Error, Tokenizer};

/// An id in 16 or 32 bits.
pub trait Id: Copy + Eq + Send + Sync {
    /// Stands before, between and behind the pre-tokens.
    const EDGE: Self;
    /// Stands at the places inside a token, between its first and its last.
    const INSIDE: Self;
    fn new(id: u32) -> Self;
    fn get(self) -> u32;
}

/// The most ids that 16 bits can tell apart from `EDGE` and `INSIDE`.
pub const NARROW: usize = u16::MAX as usize - 1;

macro_rules! id {
    ($type:ty) => {
        impl Id for $type {
            const EDGE: Self = Self::MAX;
            const INSIDE: Self = Self::MAX - 1;
            fn new(id: u32) -> Self {
                id as Self
            }
            fn get(self) -> u32 {
                self.into()
            }
        }
    };
}

id!(u16);
id!(u32);

/// Places between two looks at the cancel flag.
pub const CHECK: usize = 1 << 20;
/// Places in all: lists of places have 32-bit positions, and there may be two for each.
const LONGEST: u64 = 1 << 30;
/// Places for which there is one entry in `Text::blocks`.
const BLOCK: usize = 32;

/// A token's id stands at its first and at its last place, so that a neighbour is found in one step on either side.
/// Pre-tokens that are equally frequent lie together, the most frequent first.
pub struct Text<I> {
    pub ids: Vec<I>,
    /// Places of a token by id.
    pub widths: Vec<u32>,
    /// Where each group of equally frequent pre-tokens starts; then the end of the last.
    starts: Vec<u32>,
    /// How often those of each group occur.
    counts: Vec<u64>,
    /// The group at the first place of each block.
    blocks: Vec<u32>,
}

impl<I: Id> Text<I> {
    /// Takes the pre-tokens out of the table.
    pub fn new(counts: PieceCounts, start: &Start, cancel: &Cancel) -> Result<Self, Error> {
        let mut places = Histogram::default();
        counts.for_each(cancel, |piece, count| *places.of(count) += piece.len() as u64 + 1)?;
        let mut text =
            Self { ids: Vec::new(), widths: vec![1; 256], starts: vec![1], counts: Vec::new(), blocks: Vec::new() };
        let mut next = places;
        let mut end = 1;
        next.descending(|count, places| {
            text.counts.push(count);
            let start = std::mem::replace(places, end);
            end += start;
            text.starts.push(u32::try_from(end).unwrap_or(u32::MAX));
        });
        if end > LONGEST {
            return Err(Error::Argument(format!(
                "source: its distinct pre-tokens take {end} bytes, the limit is {LONGEST}; max_memory can bound them"
            )));
        }
        text.ids = vec![I::EDGE; end as usize];
        match start.base() {
            None => counts.drain(cancel, |piece, count| {
                let at = next.of(count);
                for (slot, &byte) in text.ids[*at as usize..].iter_mut().zip(piece) {
                    *slot = I::new(start.byte_id(byte));
                }
                *at += piece.len() as u64 + 1;
            })?,
            Some(base) => text.encode(counts, base, start, &mut next, cancel)?,
        }
        Ok(text)
    }

    fn encode(
        &mut self,
        counts: PieceCounts,
        base: &Tokenizer,
        start: &Start,
        next: &mut Histogram,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        const BATCH: usize = 1 << 20;
        self.widths = vec![1; base.vocab_size()];
        let nothing = Allowed::Some(Vec::new());
        let mut batch: Vec<u8> = Vec::new();
        let mut pieces: Vec<(usize, u64)> = Vec::new();
        let mut failure = Ok(());
        let mut flush = |batch: &mut Vec<u8>, pieces: &mut Vec<(usize, u64)>| {
            let mut from = 0;
            let texts: Vec<&[u8]> =
                pieces.iter().map(|&(end, _)| &batch[std::mem::replace(&mut from, end)..end]).collect();
            let encoded = base.encode_batch(&texts, &nothing, &nothing, cancel)?;
            for ((ends, text), &(_, count)) in encoded.offsets.windows(2).zip(texts).zip(pieces.iter()) {
                let at = next.of(count);
                let ids = &encoded.ids[ends[0] as usize..ends[1] as usize];
                for (slot, &id) in self.ids[*at as usize..].iter_mut().zip(ids) {
                    *slot = I::new(start.order(id));
                }
                *at += text.len() as u64 + 1;
            }
            batch.clear();
            pieces.clear();
            Ok(())
        };
        counts.drain(cancel, |piece, count| {
            batch.extend_from_slice(piece);
            pieces.push((batch.len(), count));
            if batch.len() >= BATCH && failure.is_ok() {
                failure = flush(&mut batch, &mut pieces);
            }
        })?;
        failure?;
        flush(&mut batch, &mut pieces)
    }

    /// Gives each token one place again and drops what no merge can change any more.
    pub fn compact(&mut self, cancel: &Cancel) -> Result<(), Error> {
        let mut write = 1;
        let mut checked = 0;
        for group in 0..self.counts.len() {
            let mut read = self.starts[group] as usize;
            let end = self.starts[group + 1] as usize;
            self.starts[group] = write as u32;
            let mut start = write;
            while read < end {
                let id = self.ids[read];
                if id != I::EDGE {
                    self.ids[write] = id;
                    write += 1;
                    read += self.widths[id.get() as usize] as usize;
                    continue;
                }
                read += 1;
                if write - start < 2 {
                    write = start;
                } else {
                    self.ids[write] = I::EDGE;
                    write += 1;
                }
                start = write;
                if read - checked > CHECK {
                    checked = read;
                    cancel.check()?;
                }
            }
        }
        if let Some(end) = self.starts.last_mut() {
            *end = write as u32;
        }
        self.ids.truncate(write);
        if self.ids.capacity() > 2 * write {
            self.ids.shrink_to_fit();
        }
        self.widths.fill(1);
        self.blocks.clear();
        let mut group = 0;
        for place in (0..write).step_by(BLOCK) {
            while group + 1 < self.counts.len() && self.starts[group + 1] as usize <= place {
                group += 1;
            }
            self.blocks.push(group as u32);
        }
        Ok(())
    }

    /// How often the pre-token at a place occurs.
    #[inline]
    pub fn weight(&self, place: usize) -> u64 {
        let mut group = self.blocks[place / BLOCK] as usize;
        while self.starts[group + 1] as usize <= place {
            group += 1;
        }
        self.counts[group]
    }

    /// Gives place, left id, right id and count of each two tokens side by side; for a text just made compact.
    pub fn for_each_pair(&self, cancel: &Cancel, mut visit: impl FnMut(u32, u32, u32, u64)) -> Result<(), Error> {
        for (group, &count) in self.counts.iter().enumerate() {
            let (mut start, end) = (self.starts[group] as usize, self.starts[group + 1] as usize);
            while start < end {
                cancel.check()?;
                let part_end = end.min(start + CHECK);
                let mut left = self.ids[start - 1];
                for (place, &right) in (start as u32 - 1..).zip(&self.ids[start..part_end]) {
                    if left != I::EDGE && right != I::EDGE {
                        visit(place, left.get(), right.get(), count);
                    }
                    left = right;
                }
                start = part_end;
            }
        }
        Ok(())
    }
}

/// A number for each count, fast for the many that occur seldom.
struct Histogram {
    small: Vec<u64>,
    large: BTreeMap<u64, u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { small: vec![0; 1 << 10], large: BTreeMap::new() }
    }
}

impl Histogram {
    fn of(&mut self, count: u64) -> &mut u64 {
        if count < self.small.len() as u64 {
            return &mut self.small[count as usize];
        }
        self.large.entry(count).or_default()
    }

    /// The numbers that are not 0, the highest count first.
    fn descending(&mut self, mut visit: impl FnMut(u64, &mut u64)) {
        for (&count, number) in self.large.iter_mut().rev() {
            visit(count, number);
        }
        for (count, number) in self.small.iter_mut().enumerate().rev().filter(|(_, number)| **number > 0) {
            visit(count as u64, number);
        }
    }
}
