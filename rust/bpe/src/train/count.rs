//! How often each distinct pre-token occurs.
//!
//! Each thread counts in a small table that stays in its cache, and empties it into shards that all threads share: the
//! distinct pre-tokens are held once, whatever the number of threads, and sums do not depend on the order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::hash::{Key, fixed};
use super::parts::Part;
use super::table::{self, Piece, Table};
use crate::{Cancel, Error, Pattern};

const SHARD_BITS: u32 = 6;
/// Pre-tokens in a thread's table before it is emptied.
const LOCAL_ENTRIES: usize = 1 << 14;
/// Bytes of them; what they take in all is not more than a few times this.
const LOCAL_BYTES: usize = 1 << 20;
/// Pre-tokens between two looks at the cancel flag.
const CHECK: usize = 1 << 13;
/// Lengths in bytes to which pre-tokens are cut when memory runs out, one after the other.
const CUTS: [usize; 2] = [64, 16];

/// Counts of distinct pre-tokens of two bytes and more (a single one holds no pair).
#[derive(Debug)]
pub struct PieceCounts {
    key: Key,
    shards: Vec<Mutex<Table>>,
    idle: Mutex<Vec<Table>>,
    /// Longer pre-tokens are cut.
    cut: usize,
}

impl PieceCounts {
    pub fn new() -> Self {
        Self {
            key: Key::random(),
            shards: (0..1 << SHARD_BITS).map(|_| Mutex::new(Table::new(SHARD_BITS))).collect(),
            idle: Mutex::default(),
            cut: usize::MAX,
        }
    }

    /// Counts the pre-tokens of parts, on all threads.
    pub fn count(&self, parts: &[Part<'_>], pattern: &Pattern, cancel: &Cancel) -> Result<(), Error> {
        parts.par_iter().with_max_len(1).try_for_each(|part| {
            let mut table = lock(&self.idle).pop().unwrap_or_default();
            self.count_part(part, pattern, &mut table, cancel)?;
            part.release();
            lock(&self.idle).push(table);
            Ok::<_, Error>(())
        })?;
        let tables = std::mem::take(&mut *lock(&self.idle));
        tables.into_par_iter().try_for_each(|mut table| self.empty(&mut table, cancel))
    }

    fn count_part(&self, part: &Part<'_>, pattern: &Pattern, table: &mut Table, cancel: &Cancel) -> Result<(), Error> {
        if let Some(cutter) = pattern.cutter() {
            let text = &part.text[part.start..part.end];
            return cutter.cut(text, cancel, &mut |from, to| self.add(text, from, to, part.weight, table, cancel));
        }
        // What follows the part decides no more than whether its last white space stands before a word.
        let text = &part.text[..part.text.len().min(part.end + 4)];
        let mut at = part.start;
        let mut pieces = 0;
        while at < part.end {
            pieces += 1;
            if pieces % CHECK == 0 {
                cancel.check()?;
            }
            let end = pattern.piece_end(text, at).min(part.end);
            self.add(text, at, end, part.weight, table, cancel)?;
            at = end;
        }
        Ok(())
    }

    /// Counts the pre-token `text[start..end]`, cut if it is longer than memory allows.
    #[inline]
    fn add(
        &self,
        text: &[u8],
        start: usize,
        end: usize,
        weight: u64,
        table: &mut Table,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        if end - start > self.cut {
            for (start, end) in cut(text, start, end, self.cut) {
                table.add(&Piece::new(text, start, end, &self.key), weight);
            }
        } else if end - start > 1 {
            table.add(&Piece::new(text, start, end, &self.key), weight);
        }
        if table.len() >= LOCAL_ENTRIES || table.total_bytes() >= LOCAL_BYTES {
            self.empty(table, cancel)?;
        }
        Ok(())
    }

    /// Moves a thread's counts to the shards.
    fn empty(&self, table: &mut Table, cancel: &Cancel) -> Result<(), Error> {
        cancel.check()?;
        let mut held: Option<(usize, MutexGuard<'_, Table>)> = None;
        for (piece, count) in table.iter() {
            let number = shard_of(&piece);
            let shard = match &mut held {
                Some((holding, shard)) if *holding == number => shard,
                _ => {
                    // Never two at once, or threads could wait for each other.
                    drop(held.take());
                    &mut held.insert((number, lock(&self.shards[number]))).1
                }
            };
            shard.add(&piece, count);
        }
        drop(held);
        table.clear();
        Ok(())
    }

    /// About the bytes of memory taken by the counts and by what training makes of them; the same for the same counts.
    pub fn memory(&self, cancel: &Cancel) -> Result<u64, Error> {
        let mut total = 0;
        self.for_each(cancel, |piece, _| total += memory(piece.len()))?;
        Ok(total)
    }

    /// Calls `visit` with each pre-token and its count.
    pub fn for_each(&self, cancel: &Cancel, mut visit: impl FnMut(&[u8], u64)) -> Result<(), Error> {
        for shard in &self.shards {
            for (number, (piece, count)) in lock(shard).iter().enumerate() {
                if number % CHECK == 0 {
                    cancel.check()?;
                }
                visit(piece.bytes(), count);
            }
        }
        Ok(())
    }

    /// As [`PieceCounts::for_each`], giving memory back on the way.
    pub fn drain(self, cancel: &Cancel, mut visit: impl FnMut(&[u8], u64)) -> Result<(), Error> {
        for shard in self.shards {
            let shard = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
            cancel.check()?;
            for (piece, count) in shard.iter() {
                visit(piece.bytes(), count);
            }
        }
        Ok(())
    }

    /// Takes at most `most` bytes of memory: cuts long pre-tokens; if that is not enough, drops rare ones until half of
    /// it is free.
    pub fn reduce(&mut self, most: u64, cancel: &Cancel) -> Result<(), Error> {
        let present = self.cut;
        for length in CUTS.into_iter().filter(|&length| length < present) {
            if self.memory(cancel)? <= most {
                return Ok(());
            }
            self.cut = length;
            self.rebuild(cancel, |_, _| true)?;
        }
        if self.memory(cancel)? <= most {
            return Ok(());
        }
        self.drop_rare(most / 2, cancel)
    }

    /// Keeps the most frequent; of those that are equally rare, some, chosen by what they hold.
    fn drop_rare(&mut self, keep: u64, cancel: &Cancel) -> Result<(), Error> {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        self.for_each(cancel, |piece, count| *sizes.entry(count).or_default() += memory(piece.len()))?;
        let mut left = keep;
        for (count, total) in sizes.into_iter().rev() {
            if total > left {
                let most = (u128::from(left) << 64) / u128::from(total);
                return self.rebuild(cancel, |bytes, other| {
                    other > count || (other == count && u128::from(fixed(bytes)) < most)
                });
            }
            left -= total;
        }
        Ok(())
    }

    /// Keeps what `keep` says, cut to the present length.
    fn rebuild(&mut self, cancel: &Cancel, keep: impl Fn(&[u8], u64) -> bool) -> Result<(), Error> {
        for number in 0..self.shards.len() {
            cancel.check()?;
            let old = std::mem::replace(&mut *lock(&self.shards[number]), Table::new(SHARD_BITS));
            for (piece, count) in old.iter() {
                let bytes = piece.bytes();
                if bytes.len() <= self.cut {
                    if keep(bytes, count) {
                        lock(&self.shards[number]).add(&piece, count);
                    }
                    continue;
                }
                for (start, end) in cut(bytes, 0, bytes.len(), self.cut) {
                    let piece = Piece::new(bytes, start, end, &self.key);
                    lock(&self.shards[shard_of(&piece)]).add(&piece, count);
                }
            }
        }
        Ok(())
    }
}

/// About the bytes of memory for a pre-token: in the table, and then four for each of its ids and for the edge.
fn memory(length: usize) -> u64 {
    (table::memory(length) + 4 * (length + 1)) as u64
}

fn shard_of(piece: &Piece<'_>) -> usize {
    (piece.tag() >> (32 - SHARD_BITS)) as usize
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces of `text[start..end]` of at most `length` bytes and more than one, none ending inside a character.
fn cut(text: &[u8], mut start: usize, end: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    std::iter::from_fn(move || {
        while end - start > 1 {
            let from = start;
            let mut to = end.min(start + length);
            if to < end {
                let inside = text[to - 2..=to].iter().rev().take_while(|&&byte| byte & 0xc0 == 0x80).count();
                to -= inside;
            }
            start = to;
            if to - from > 1 {
                return Some((from, to));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::parts::{Corpus, Parts};
    use super::*;
    use crate::pretokenize;

    fn counted(counts: &PieceCounts) -> BTreeMap<Vec<u8>, u64> {
        let mut found = BTreeMap::new();
        counts.for_each(&Cancel::new(), |piece, count| assert!(found.insert(piece.to_vec(), count).is_none())).unwrap();
        found
    }

    fn count(text: &[u8], pattern: Pattern) -> PieceCounts {
        let counts = PieceCounts::new();
        let parts: Vec<_> = Parts::new(Corpus { text, weight: 1 }, None, &pattern, None).collect();
        counts.count(&parts, &pattern, &Cancel::new()).unwrap();
        counts
    }

    #[test]
    fn cutting_a_text_into_parts_changes_no_count() {
        let line = "Zwei Wörter, 12 numbers\n  and 中文，没有空格。I'm \u{3000}  don't!?\u{301}e \nx\n\n \u{1f600}a/\n";
        let text = line.repeat((3 << 20) / 2 / line.len());
        for pattern in Pattern::ALL {
            let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for piece in pretokenize(text.as_bytes(), &pattern).unwrap().into_iter().filter(|piece| piece.len() > 1) {
                *expected.entry(piece.to_vec()).or_default() += 1;
            }
            assert_eq!(counted(&count(text.as_bytes(), pattern.clone())), expected, "{pattern:?}");
        }
    }

    #[test]
    fn pieces_of_a_cut_end_at_characters() {
        let text = "中文分词是自然语言处理的基础".as_bytes();
        let pieces: Vec<_> = cut(text, 0, text.len(), 16).map(|(start, end)| &text[start..end]).collect();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| piece.len() <= 16 && std::str::from_utf8(piece).is_ok()), "{pieces:?}");
        assert_eq!(cut(&[0x80; 40], 0, 40, 16).count(), 3);
        assert_eq!(cut(b"0123456789abcdefg", 0, 17, 16).count(), 1);
    }

    #[test]
    fn rare_pieces_go_first_and_the_same_ones_always() {
        let words = |range: std::ops::Range<u32>| range.map(|word| format!("{word:06}\n")).collect::<String>();
        let text = words(0..4000) + &words(0..100);
        let mut kept = Vec::new();
        for _ in 0..2 {
            let mut counts = count(text.as_bytes(), Pattern::Whitespace);
            counts.reduce(3000 * memory(7), &Cancel::new()).unwrap();
            kept.push(counted(&counts));
        }
        assert_eq!(kept[0], kept[1]);
        assert!((0..100).all(|word| kept[0].get(format!("{word:06}").as_bytes()) == Some(&2)));
        assert!((1300..=1700).contains(&kept[0].len()), "{}", kept[0].len());
    }
}
