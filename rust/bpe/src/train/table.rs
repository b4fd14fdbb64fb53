//! A compact table of pre-tokens and their counts.

use super::hash::Key;

/// Pre-tokens up to this length lie inside their entry.
const INLINE: usize = 16;

/// About the bytes of memory that a pre-token takes: its entry, its slots (between 3/8 and 3/4 of them are used).
pub fn memory(length: usize) -> usize {
    size_of::<Entry>() + 21 + if length > INLINE { length } else { 0 }
}

/// A pre-token on its way into tables.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    bytes: &'a [u8],
    /// The bytes if there are at most [`INLINE`], else the hash.
    block: u128,
    tag: u32,
}

impl<'a> Piece<'a> {
    /// The piece `text[start..end]`, not empty.
    #[inline]
    pub fn new(text: &'a [u8], start: usize, end: usize, key: &Key) -> Self {
        let bytes = &text[start..end];
        if bytes.len() > INLINE {
            let hash = key.bytes(bytes);
            return Self { bytes, block: hash.into(), tag: (hash >> 32) as u32 };
        }
        let block = match text[start..].first_chunk::<INLINE>() {
            Some(block) => u128::from_le_bytes(*block) & u128::MAX >> (8 * (INLINE - bytes.len())),
            None => {
                let mut block = [0; INLINE];
                block[..bytes.len()].copy_from_slice(bytes);
                u128::from_le_bytes(block)
            }
        };
        let hash = key.words(block as u64, (block >> 64) as u64 ^ (bytes.len() as u64) << 56);
        Self { bytes, block, tag: (hash >> 32) as u32 }
    }

    /// 32 bits of the hash.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// The text.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    count: u64,
    /// The bytes; of a piece longer than that the hash and where its bytes start in the buffer.
    block: [u8; INLINE],
    length: u32,
}

impl Entry {
    fn start(&self) -> usize {
        (u128::from_le_bytes(self.block) >> 64) as usize
    }
}

/// Open addressing: slots hold a hash's tag and an entry's number plus one.
#[derive(Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    slots: Vec<u64>,
    buffer: Vec<u8>,
    total: usize,
    /// First bits of the tag that all pieces share.
    shared_bits: u32,
}

impl Table {
    /// An empty table for pieces whose tags agree in the first `shared_bits`.
    pub fn new(shared_bits: u32) -> Self {
        Self { shared_bits, ..Self::default() }
    }

    /// Adds to the count of a piece; true if it is new.
    #[inline]
    pub fn add(&mut self, piece: &Piece<'_>, count: u64) -> bool {
        if (self.entries.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = self.home(piece.tag);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                self.insert(at, piece, count);
                return true;
            }
            if (slot >> 32) as u32 == piece.tag {
                let entry = &mut self.entries[slot as u32 as usize - 1];
                if is_same(entry, piece, &self.buffer) {
                    entry.count = entry.count.saturating_add(count);
                    return false;
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, at: usize, piece: &Piece<'_>, count: u64) {
        let mut block = piece.block;
        if piece.bytes.len() > INLINE {
            block |= (self.buffer.len() as u128) << 64;
            self.buffer.extend_from_slice(piece.bytes);
        }
        self.total += piece.bytes.len();
        self.entries.push(Entry { count, block: block.to_le_bytes(), length: piece.bytes.len() as u32 });
        self.slots[at] = u64::from(piece.tag) << 32 | self.entries.len() as u64;
    }

    /// Slots lie in the order of the tags, so that what is read from one table in the order of its slots falls into
    /// the next one in that order too.
    fn home(&self, tag: u32) -> usize {
        let bits = self.slots.len().trailing_zeros();
        (u64::from(tag << self.shared_bits) >> (32 - bits)) as usize
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(1 << 4);
        let old = std::mem::replace(&mut self.slots, vec![0; size]);
        for slot in old.into_iter().filter(|&slot| slot != 0) {
            let mut at = self.home((slot >> 32) as u32);
            while self.slots[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = slot;
        }
    }

    /// Pieces with their counts, about in the order of their tags.
    pub fn iter(&self) -> impl Iterator<Item = (Piece<'_>, u64)> {
        self.slots.iter().filter(|&&slot| slot != 0).map(|&slot| {
            let entry = &self.entries[slot as u32 as usize - 1];
            (self.piece(entry, (slot >> 32) as u32), entry.count)
        })
    }

    fn piece<'a>(&'a self, entry: &'a Entry, tag: u32) -> Piece<'a> {
        let length = entry.length as usize;
        let block = u128::from_le_bytes(entry.block);
        if length > INLINE {
            let bytes = &self.buffer[entry.start()..][..length];
            return Piece { bytes, block: block as u64 as u128, tag };
        }
        Piece { bytes: &entry.block[..length], block, tag }
    }

    /// The number of pieces.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all pieces.
    pub fn total_bytes(&self) -> usize {
        self.total
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.buffer.clear();
        self.slots.fill(0);
        self.total = 0;
    }
}

#[inline]
fn is_same(entry: &Entry, piece: &Piece<'_>, buffer: &[u8]) -> bool {
    if entry.length as usize != piece.bytes.len() {
        return false;
    }
    if piece.bytes.len() <= INLINE {
        return u128::from_le_bytes(entry.block) == piece.block;
    }
    entry.block[..8] == piece.block.to_le_bytes()[..8] && buffer[entry.start()..][..piece.bytes.len()] == *piece.bytes
}
