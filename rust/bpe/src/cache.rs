//! Ids of pre-tokens met before, in bounded memory: a new pre-token takes the place of an older one.
//!
//! Most pre-tokens have few bytes and few ids: [`Key::Exact`] ones are in a table with two to a cache line. Those longer,
//! or with more ids, have a line each.

use std::hash::{BuildHasher, RandomState};

use crate::lines::Lines;
use crate::seams;

/// Longest pre-token whose bytes are its key: with its length it fills 16 bytes.
pub const SHORT: usize = 15;
/// Pre-tokens longer than this hardly come twice.
pub const LONG: usize = 128;
/// Ids in a slot of the two tables.
pub const FEW: usize = 4;
pub const MANY: usize = 12;
/// The highest byte of the first id holds the number of ids; of the second, for `MANY`, the length of the pre-token.
pub const ID_MASK: u32 = (1 << 24) - 1;

/// Tables start at the first of these sizes, and grow by eights up to the second. Fuller ones would be more in the
/// processor's cache, but pre-tokens that move to a neighbour cost more than that saves. Lines of 64 bytes.
const LINES: [usize; 2] = [1 << 12, 1 << 18];
const LONG_LINES: [usize; 2] = [1 << 10, 1 << 17];

type Words = [u64; 2];

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
struct Slot {
    key: Words,
    ids: [u32; FEW],
}

/// When a line and its neighbour are full, a new pre-token moves the line's first slot to its second.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line([Slot; 2]);

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct LongLine {
    key: Words,
    ids: [u32; MANY],
}

/// What a pre-token is looked up by, and where: found for many before the first is looked up, so that memory answers
/// them side by side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key {
    words: Words,
    line: u32,
    kind: u32,
    /// Where the pre-token ends in its text.
    pub end: usize,
}

/// The kinds of keys; every other number is the length of a pre-token with a line of its own.
const FEW_IDS: u32 = 0;
const UNKEPT: u32 = u32::MAX;

/// Keys that are too long for their bytes are hashed by NH (Black et al. 1999, "UMAC: fast and secure message
/// authentication", section 4): two different pre-tokens of one length have the same 128 bits with probability 2^-64
/// over the secret, which is drawn anew for each cache and never told. Every lookup meets two of them, so ids are wrong
/// once in 10^18 lookups at the most; the processor's memory errs more often.
#[derive(Debug)]
pub struct Cache {
    secret: [u64; LONG / 8],
    lines: Lines<Line>,
    kept: usize,
    long: Lines<LongLine>,
    long_kept: usize,
}

impl Cache {
    pub fn new() -> Self {
        let random = RandomState::new();
        Self {
            secret: std::array::from_fn(|index| random.hash_one(index)),
            lines: Lines::first(LINES[0]),
            kept: 0,
            long: Lines::first(LONG_LINES[0]),
            long_kept: 0,
        }
    }

    /// Makes room for more if it is needed and can be had; keys found before are not valid after.
    #[inline]
    pub fn grow(&mut self) {
        if self.kept > self.lines.len() / 2 && self.lines.len() < LINES[1] {
            self.grow_lines();
        }
        if self.long_kept > self.long.len() / 2 && self.long.len() < LONG_LINES[1] {
            self.grow_long();
        }
    }

    #[cold]
    fn grow_lines(&mut self) {
        self.kept = 0;
        let Some(larger) = Lines::new((self.lines.len() * 8).min(LINES[1])) else { return };
        let old = std::mem::replace(&mut self.lines, larger);
        for slot in old.iter().flat_map(|line| line.0.iter().rev()).filter(|slot| slot.key[1] != 0) {
            self.keep(self.line(slot.key), *slot);
        }
    }

    #[cold]
    fn grow_long(&mut self) {
        self.long_kept = 0;
        let Some(larger) = Lines::new((self.long.len() * 8).min(LONG_LINES[1])) else { return };
        let old = std::mem::replace(&mut self.long, larger);
        for line in old.iter().filter(|line| line.ids[1] != 0) {
            self.keep_long(self.long_line(line.key), *line);
        }
    }

    #[inline(always)]
    fn hash(&self, words: Words) -> u64 {
        let product = u128::from(words[0] ^ self.secret[0]) * u128::from(words[1] ^ self.secret[1]);
        product as u64 ^ (product >> 64) as u64
    }

    #[inline(always)]
    fn line(&self, words: Words) -> u32 {
        (self.hash(words) as usize & (self.lines.len() - 1)) as u32
    }

    #[inline(always)]
    fn long_line(&self, words: Words) -> u32 {
        (self.hash(words) as usize & (self.long.len() - 1)) as u32
    }

    /// Sets the keys of the pre-tokens from `start` on that end at `ends`, and asks memory for what stands there; stops
    /// before one that is long or may have seams. Returns how many.
    #[inline(always)]
    pub fn set_keys(&self, text: &[u8], mut start: usize, ends: &[usize], keys: &mut [Key]) -> usize {
        let lines = &*self.lines;
        let last_line = lines.len() - 1;
        let mut done = 0;
        for (&end, key) in ends.iter().zip(keys) {
            let length = end - start;
            if length > SHORT || length > 8 && seams::may_be_in(&text[start..end]) {
                break;
            }
            let words = masked(window(text, start), length);
            // Field by field: a key made elsewhere and copied here waits for its own writes.
            key.words[0] = words[0];
            key.words[1] = words[1] | (length as u64) << 56;
            key.end = end;
            start = end;
            done += 1;
            key.line = (self.hash(key.words) as usize & last_line) as u32;
            key.kind = FEW_IDS;
            prefetch(lines.as_ptr().wrapping_add(key.line as usize));
        }
        done
    }

    /// Sets the key of `text[start..end]`, whatever its length.
    #[inline]
    pub fn set_key(&self, text: &[u8], start: usize, end: usize, key: &mut Key) {
        let length = end - start;
        key.end = end;
        if length > SHORT {
            return self.set_long_key(&text[start..end], key);
        }
        let words = masked(window(text, start), length);
        key.words[0] = words[0];
        key.words[1] = words[1] | (length as u64) << 56;
        key.kind = FEW_IDS;
        key.line = self.line(key.words);
        prefetch(self.lines.as_ptr().wrapping_add(key.line as usize));
    }

    #[inline(always)]
    fn set_line(&self, length: usize, key: &mut Key) {
        key.kind = length as u32;
        key.line = self.long_line(key.words);
        prefetch(self.long.as_ptr().wrapping_add(key.line as usize));
    }

    fn set_long_key(&self, piece: &[u8], key: &mut Key) {
        if piece.len() > LONG {
            key.kind = UNKEPT;
            return;
        }
        let mut sum = 0u128;
        let mut add = |chunk: &[u8; 16], secret: &[u64]| {
            let words = masked(u128::from_le_bytes(*chunk), 16);
            let product = u128::from(words[0].wrapping_add(secret[0])) * u128::from(words[1].wrapping_add(secret[1]));
            sum = sum.wrapping_add(product);
        };
        let (chunks, rest) = piece.as_chunks::<16>();
        let mut secrets = self.secret.chunks_exact(2);
        for (chunk, secret) in chunks.iter().zip(&mut secrets) {
            add(chunk, secret);
        }
        if let Some(secret) = secrets.next().filter(|_| !rest.is_empty()) {
            let mut chunk = [0; 16];
            chunk[..rest.len()].copy_from_slice(rest);
            add(&chunk, secret);
        }
        key.words = [sum as u64, (sum >> 64) as u64];
        self.set_line(piece.len(), key);
    }

    /// Writes the ids of the pre-tokens that have these keys to `out`, up to the first that is not in its place among
    /// those with few ids. Returns how many pre-tokens that are, and how many ids.
    ///
    /// # Safety
    ///
    /// An id for each byte of the pre-tokens, and [`FEW`] more, can be written at `out`.
    #[inline(always)]
    pub unsafe fn get_run<T>(&self, keys: &[Key], out: *mut T, id: impl Fn(u32) -> T + Copy) -> (usize, usize) {
        let lines = &*self.lines;
        let mut written = 0;
        for (index, key) in keys.iter().enumerate() {
            let slots = &lines[key.line as usize & (lines.len() - 1)].0;
            let slot = &slots[usize::from(slots[1].key == key.words)];
            if slot.key != key.words || key.kind != FEW_IDS {
                return (index, written);
            }
            // SAFETY: no pre-token has more ids than bytes, so the caller's promise leaves room for FEW.
            unsafe { out.add(written).cast::<[T; FEW]>().write_unaligned(slot.ids.map(|value| id(value & ID_MASK))) };
            written += (slot.ids[0] >> 24) as usize;
        }
        (keys.len(), written)
    }

    /// The ids that [`Cache::get_run`] does not find: the first `.1` of `.0`, whose highest bytes mean nothing.
    #[inline]
    pub fn get(&self, key: &Key, length: usize) -> Option<(&[u32], usize)> {
        if key.kind == FEW_IDS {
            let neighbour = &self.lines[key.line as usize ^ 1].0;
            if let Some(slot) = neighbour.iter().find(|slot| slot.key == key.words) {
                return Some((&slot.ids, (slot.ids[0] >> 24) as usize));
            }
        }
        let line = match key.kind {
            UNKEPT => return None,
            FEW_IDS => self.long_line(key.words),
            _ => key.line,
        } as usize;
        let is_it = |line: &&LongLine| line.key == key.words && line.ids[1] >> 24 == length as u32;
        let found = [&self.long[line], &self.long[line ^ 1]].into_iter().find(is_it)?;
        Some((&found.ids, (found.ids[0] >> 24) as usize))
    }

    /// The ids that [`Cache::get_run`] and [`Cache::get`] find.
    pub fn get_any(&self, key: &Key, length: usize) -> Option<(&[u32], usize)> {
        let line = &self.lines[key.line as usize & (self.lines.len() - 1)].0;
        match line.iter().find(|slot| key.kind == FEW_IDS && slot.key == key.words) {
            Some(slot) => Some((&slot.ids, (slot.ids[0] >> 24) as usize)),
            None => self.get(key, length),
        }
    }

    /// Keeps the ids of a pre-token of `length` bytes, unless there are too many.
    pub fn put(&mut self, key: &Key, length: usize, ids: &[u32]) {
        if key.kind == FEW_IDS && ids.len() <= FEW {
            let mut slot = Slot { key: key.words, ids: [0; FEW] };
            slot.ids[..ids.len()].copy_from_slice(ids);
            slot.ids[0] |= (ids.len() as u32) << 24;
            self.keep(key.line, slot);
        } else if key.kind != UNKEPT && ids.len() <= MANY {
            let mut line = LongLine { key: key.words, ids: [0; MANY] };
            line.ids[..ids.len()].copy_from_slice(ids);
            line.ids[0] |= (ids.len() as u32) << 24;
            line.ids[1] |= (length as u32) << 24;
            self.keep_long(self.long_line(key.words), line);
        }
    }

    fn keep(&mut self, place: u32, slot: Slot) {
        self.kept += 1;
        let place = place as usize;
        for place in [place, place ^ 1] {
            if let Some(free) = self.lines[place].0.iter_mut().find(|slot| slot.key[1] == 0) {
                *free = slot;
                return;
            }
        }
        let line = &mut self.lines[place].0;
        line[1] = line[0];
        line[0] = slot;
    }

    fn keep_long(&mut self, place: u32, line: LongLine) {
        self.long_kept += 1;
        let place = place as usize;
        if self.long[place].ids[1] != 0 {
            self.long[place ^ 1] = self.long[place];
        }
        self.long[place] = line;
    }
}

/// The 16 bytes from `start` on; what lies beyond the text may be anything.
#[inline(always)]
fn window(text: &[u8], start: usize) -> u128 {
    match text[start..].first_chunk() {
        Some(window) => u128::from_le_bytes(*window),
        None => last_window(text, start),
    }
}

#[inline]
fn last_window(text: &[u8], start: usize) -> u128 {
    if let Some(window) = text.last_chunk() {
        return u128::from_le_bytes(*window) >> (8 * (start + 16 - text.len()));
    }
    let mut window = [0; 16];
    window[..text.len() - start].copy_from_slice(&text[start..]);
    u128::from_le_bytes(window)
}

/// The first `length` bytes of 16, the others 0.
#[inline(always)]
fn masked(all: u128, length: usize) -> Words {
    const MASKS: [Words; 17] = {
        let mut masks = [[0; 2]; 17];
        let mut length = 1;
        while length <= 16 {
            masks[length][0] = if length < 8 { (1 << (8 * length)) - 1 } else { u64::MAX };
            masks[length][1] = if length <= 8 { 0 } else { u64::MAX >> (8 * (16 - length)) };
            length += 1;
        }
        masks
    };
    let mask = &MASKS[length];
    [all as u64 & mask[0], (all >> 64) as u64 & mask[1]]
}

#[inline(always)]
fn prefetch<L>(line: *const L) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cache: &Cache, text: &[u8], start: usize, end: usize) -> Key {
        let mut key = Key::default();
        cache.set_key(text, start, end, &mut key);
        let mut same = [Key::default()];
        if cache.set_keys(text, start, &[end], &mut same) == 1 {
            assert_eq!((key.words, key.line, key.kind), (same[0].words, same[0].line, same[0].kind));
        }
        key
    }

    fn get(cache: &Cache, text: &[u8]) -> Option<Vec<u32>> {
        let key = key(cache, text, 0, text.len());
        let mut few = [0; 64];
        // SAFETY: the pre-tokens of the test that have a slot are short.
        let (found, count) = unsafe { cache.get_run(&[key], few.as_mut_ptr(), |id| id) };
        if found > 0 {
            return Some(few[..count].to_vec());
        }
        let (ids, count) = cache.get(&key, text.len())?;
        Some(ids[..count].iter().map(|id| id & ID_MASK).collect())
    }

    #[test]
    fn what_is_kept_comes_back_and_memory_is_bounded() {
        let mut cache = Cache::new();
        for number in 0..700_000u32 {
            let ids: Vec<u32> = (0..1 + number % 13).map(|place| number + place).collect();
            for repeats in [1, 2, 5] {
                let word = format!("{}{number}", if number % 3 == 0 { "é" } else { "e" }).repeat(repeats);
                cache.grow();
                let key = key(&cache, word.as_bytes(), 0, word.len());
                cache.put(&key, word.len(), &ids);
                let expected = (ids.len() <= MANY).then(|| ids.clone());
                assert_eq!(get(&cache, word.as_bytes()), expected, "{word}");
            }
        }
        assert_eq!((cache.lines.len(), cache.long.len()), (LINES[1], LONG_LINES[1]));
        let long = [b'a'; LONG + 1];
        cache.put(&key(&cache, &long, 0, long.len()), long.len(), &[1]);
        assert_eq!(get(&cache, &long), None);
    }

    #[test]
    fn keys_are_of_the_piece_alone() {
        let cache = Cache::new();
        let text = b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
        for length in 1..=26 {
            let [one, other] = [2, 28].map(|start| key(&cache, text, start, (start + length).min(text.len())));
            let alone = key(&cache, &text[2..2 + length], 0, length);
            assert_eq!((one.words, one.kind), (alone.words, alone.kind));
            assert!(length > 24 || one.words == other.words);
        }
        assert_ne!(key(&cache, b"a\0", 0, 1).words, key(&cache, b"a\0", 0, 2).words);
    }
}
