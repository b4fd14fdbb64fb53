//! Ids of pre-tokens met before. Of fixed size: a new pre-token takes the place of the one that shares its slot.

const SLOTS: usize = 1 << 15;
const INLINE: usize = 3;
/// Longest pre-token kept in a slot: with its length it fills 16 bytes.
const SHORT: usize = 15;
const LONG_SLOTS: usize = 1 << 11;
/// Pre-tokens longer than this hardly come twice.
const LONG: usize = 128;

#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Slot {
    key: u128,
    ids: [u32; INLINE],
    count: u32,
}

#[derive(Clone, Debug, Default)]
struct LongSlot {
    piece: Vec<u8>,
    ids: Vec<u32>,
}

#[derive(Debug)]
pub struct Cache {
    slots: Vec<Slot>,
    long: Vec<LongSlot>,
}

/// Where a pre-token would be.
#[derive(Clone, Copy)]
pub enum Place {
    Short { key: u128, slot: usize },
    Long { slot: usize },
    Nowhere,
}

impl Cache {
    pub fn new() -> Self {
        Self { slots: vec![Slot::default(); SLOTS], long: Vec::new() }
    }

    /// Appends the ids of `text[start..end]` to `out` if they are known, else tells where to keep them.
    #[inline]
    pub fn get(&self, text: &[u8], start: usize, end: usize, out: &mut Vec<u32>) -> Option<Place> {
        let length = end - start;
        if length > SHORT {
            return self.get_long(&text[start..end], out);
        }
        let key = key(text, start, length);
        let slot = (fold(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize;
        let known = &self.slots[slot];
        if known.key == key && known.count > 0 {
            out.extend_from_slice(&known.ids[..known.count as usize]);
            return None;
        }
        Some(Place::Short { key, slot })
    }

    fn get_long(&self, piece: &[u8], out: &mut Vec<u32>) -> Option<Place> {
        if piece.len() > LONG {
            return Some(Place::Nowhere);
        }
        let slot = long_slot(piece);
        if let Some(known) = self.long.get(slot).filter(|known| known.piece == piece) {
            out.extend_from_slice(&known.ids);
            return None;
        }
        Some(Place::Long { slot })
    }

    /// Keeps the ids of a pre-token that [`Cache::get`] did not know.
    pub fn put(&mut self, place: Place, piece: &[u8], ids: &[u32]) {
        match place {
            Place::Short { key, slot } if ids.len() <= INLINE => {
                let mut kept = Slot { key, count: ids.len() as u32, ..Slot::default() };
                kept.ids[..ids.len()].copy_from_slice(ids);
                self.slots[slot] = kept;
            }
            Place::Short { .. } | Place::Nowhere => {}
            Place::Long { slot } => {
                if self.long.is_empty() {
                    self.long = vec![LongSlot::default(); LONG_SLOTS];
                }
                let kept = &mut self.long[slot];
                kept.piece.clear();
                kept.piece.extend_from_slice(piece);
                kept.ids.clear();
                kept.ids.extend_from_slice(ids);
            }
        }
    }
}

#[inline]
fn key(text: &[u8], start: usize, length: usize) -> u128 {
    let bytes = match text.get(start..start + 16).and_then(|window| <[u8; 16]>::try_from(window).ok()) {
        Some(window) => u128::from_le_bytes(window) & ((1 << (8 * length)) - 1),
        None => {
            let mut window = [0; 16];
            window[..length].copy_from_slice(&text[start..start + length]);
            u128::from_le_bytes(window)
        }
    };
    bytes | (length as u128) << 120
}

#[inline]
fn fold(key: u128) -> u64 {
    (key as u64).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29) ^ (key >> 64) as u64
}

fn long_slot(piece: &[u8]) -> usize {
    let mut hash = piece.len() as u64;
    for chunk in piece.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    hash as usize % LONG_SLOTS
}
