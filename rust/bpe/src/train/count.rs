//! How often each distinct pre-token occurs.

use std::hash::Hasher;

use rayon::prelude::*;
use rustc_hash::FxHasher;

use crate::{Cancel, Error, Pattern};

/// Distinct pre-tokens, their bytes in one buffer, found by an open-addressing table of entry numbers.
#[derive(Debug, Default)]
pub struct PieceCounts {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    slots: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    length: usize,
    count: u64,
    hash: u64,
}

const EMPTY: u32 = u32::MAX;
/// Text that one thread counts at a time.
const PART: usize = 1 << 20;
/// Pre-tokens between two looks at the cancel flag.
const CHECK: usize = 1 << 14;

impl PieceCounts {
    fn increase(&mut self, piece: &[u8], hash: u64, count: u64) {
        if (self.entries.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = (hash >> 32) as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let entry = &mut self.entries[slot as usize];
            if entry.hash == hash && self.bytes[entry.start..entry.start + entry.length] == *piece {
                entry.count += count;
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = self.entries.len() as u32;
        self.entries.push(Entry { start: self.bytes.len(), length: piece.len(), count, hash });
        self.bytes.extend_from_slice(piece);
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1 << 10);
        self.slots.clear();
        self.slots.resize(size, EMPTY);
        for (number, entry) in (0..).zip(&self.entries) {
            let mut at = (entry.hash >> 32) as usize & (size - 1);
            while self.slots[at] != EMPTY {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = number;
        }
    }

    /// Adds another table's counts.
    pub fn add(&mut self, other: &Self) {
        for entry in &other.entries {
            self.increase(&other.bytes[entry.start..entry.start + entry.length], entry.hash, entry.count);
        }
    }

    /// The distinct pre-tokens with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.entries.iter().map(|entry| (&self.bytes[entry.start..entry.start + entry.length], entry.count))
    }

    /// The number of distinct pre-tokens.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Their bytes together.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory that the table takes.
    pub fn memory(&self) -> u64 {
        (self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>() + self.slots.capacity() * 4) as u64
    }

    fn count_part(
        &mut self,
        text: &[u8],
        start: usize,
        end: usize,
        pattern: &Pattern,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        if let Some(cutter) = pattern.cutter() {
            return cutter.cut(&text[start..end], cancel, &mut |from, to| {
                let piece = &text[start + from..start + to];
                if piece.len() > 1 {
                    self.increase(piece, hash(piece), 1);
                }
                Ok(())
            });
        }
        let mut at = start;
        let mut pieces = 0;
        while at < end {
            pieces += 1;
            if pieces % CHECK == 0 {
                cancel.check()?;
            }
            let piece_end = pattern.piece_end(text, at);
            let piece = &text[at..piece_end];
            // A single byte holds no pair.
            if piece.len() > 1 {
                self.increase(piece, hash(piece), 1);
            }
            at = piece_end;
        }
        Ok(())
    }
}

fn hash(piece: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(piece);
    hasher.finish()
}

/// A stretch of a text that starts and ends with a pre-token.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a [u8],
    start: usize,
    end: usize,
}

/// Counts texts in rounds of about `round` bytes, the parts of a round on all threads, and gives each round's counts
/// (one call for each thread) and bytes to `add`. What is counted does not depend on the cuts.
pub fn count_texts<'a>(
    texts: &'a [&'a [u8]],
    pattern: &'a Pattern,
    round: usize,
    cancel: &Cancel,
    mut add: impl FnMut(&PieceCounts, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut parts = texts.iter().flat_map(|text| Parts { text, at: 0, pattern }).peekable();
    while parts.peek().is_some() {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while let Some(part) = parts.next_if(|_| bytes < round) {
            bytes += part.end - part.start;
            taken.push(part);
        }
        let share = taken.len().div_ceil(rayon::current_num_threads());
        let counted: Vec<(PieceCounts, usize)> = taken
            .par_chunks(share)
            .map(|parts| {
                let mut counts = PieceCounts::default();
                for part in parts {
                    counts.count_part(part.text, part.start, part.end, pattern, cancel)?;
                }
                Ok((counts, parts.iter().map(|part| part.end - part.start).sum()))
            })
            .collect::<Result<_, Error>>()?;
        for (counts, bytes) in counted {
            add(&counts, bytes)?;
        }
    }
    Ok(())
}

struct Parts<'a> {
    text: &'a [u8],
    at: usize,
    pattern: &'a Pattern,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        self.at = self.pattern.safe_start(self.text, start + PART);
        Some(Part { text: self.text, start, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize;
    use std::collections::BTreeMap;

    #[test]
    fn cutting_a_text_into_parts_changes_no_count() {
        let line = "Zwei Wörter, 12 numbers\n  and 中文 \nx\n\n";
        let text = line.repeat(PART / line.len() * 5 / 4);
        for pattern in Pattern::ALL {
            let mut total = PieceCounts::default();
            count_texts(&[text.as_bytes()], &pattern, PART, &Cancel::new(), |counts, _| {
                total.add(counts);
                Ok(())
            })
            .unwrap();
            let mut expected: BTreeMap<&[u8], u64> = BTreeMap::new();
            for piece in pretokenize(text.as_bytes(), &pattern).unwrap().into_iter().filter(|piece| piece.len() > 1) {
                *expected.entry(piece).or_default() += 1;
            }
            assert_eq!(total.iter().collect::<BTreeMap<_, _>>(), expected, "{pattern:?}");
        }
    }
}
