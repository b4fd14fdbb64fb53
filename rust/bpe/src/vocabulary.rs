//! Tokens by id, and the order and spelling that byte-level BPE gives to single bytes.

use rustc_hash::FxHashMap;

use crate::Error;

/// The most ids a vocabulary may have: far above any real one, far below what would exhaust memory.
pub const MAX_VOCABULARY: usize = 1 << 22;

/// The most bytes that all tokens may have together: o200k's have 1.4 million, and finding them takes 17 bytes for each
/// while the trie is built.
const MAX_TOKEN_BYTES: usize = 1 << 26;

/// The bytes in the order of their ids: GPT-2's, which puts the visible characters of Latin-1 first. tiktoken and
/// Hugging Face number them alike, and breaking ties by id gives the same merges as theirs only in this order.
pub const BYTE_ORDER: [u8; 256] = byte_order();

const fn is_visible(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn byte_order() -> [u8; 256] {
    let mut order = [0; 256];
    let mut next = 0;
    let mut pass = 0;
    while pass < 2 {
        let mut byte = 0;
        while byte < 256 {
            if is_visible(byte as u8) == (pass == 0) {
                order[next] = byte as u8;
                next += 1;
            }
            byte += 1;
        }
        pass += 1;
    }
    order
}

/// How tokenizer.json spells a byte: itself where it is visible, else the next character from U+0100 on.
pub fn byte_to_char(byte: u8) -> char {
    if is_visible(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|&other| !is_visible(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or('\u{fffd}')
}

/// The tables of [`byte_to_char`] in both directions.
pub struct ByteSpelling {
    chars: [char; 256],
    bytes: FxHashMap<char, u8>,
}

impl ByteSpelling {
    pub fn new() -> Self {
        let chars = std::array::from_fn(|byte| byte_to_char(byte as u8));
        let bytes = chars.iter().zip(0..=255).map(|(&char, byte)| (char, byte)).collect();
        Self { chars, bytes }
    }

    pub fn spell(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|&byte| self.chars[usize::from(byte)]).collect()
    }

    /// The bytes of a token as tokenizer.json spells it; none if a character stands for no byte.
    pub fn read(&self, spelled: &str) -> Option<Vec<u8>> {
        spelled.chars().map(|char| self.bytes.get(&char).copied()).collect()
    }
}

/// The bytes of each id, in one buffer. An id without bytes is a hole: real vocabularies skip some.
#[derive(Debug)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Vocabulary {
    /// From the tokens by id.
    pub fn new(tokens: &[Vec<u8>]) -> Result<Self, Error> {
        if tokens.len() > MAX_VOCABULARY {
            return Err(Error::format(format!("{} ids: the limit is {MAX_VOCABULARY}", tokens.len())));
        }
        let total: usize = tokens.iter().map(Vec::len).sum();
        if total > MAX_TOKEN_BYTES {
            return Err(Error::format(format!("the tokens take {total} bytes: the limit is {MAX_TOKEN_BYTES}")));
        }
        let mut vocabulary = Self { bytes: Vec::with_capacity(total), ends: Vec::with_capacity(tokens.len()) };
        for token in tokens {
            vocabulary.bytes.extend_from_slice(token);
            vocabulary.ends.push(vocabulary.bytes.len() as u32);
        }
        Ok(vocabulary)
    }

    /// The number of ids, holes included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of an id; none for a hole or an id beyond the last.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        if start == end { None } else { self.bytes.get(start..end) }
    }

    /// Appends the bytes of `ids` to `out`, up to the first that is a hole or beyond the last; returns how many ids. An
    /// error if there is no memory for so many bytes.
    pub fn append(&self, ids: &[u32], out: &mut Vec<u8>) -> Result<usize, Error> {
        const CHUNK: usize = 16;
        let lengths = ids.iter().map_while(|&id| self.get(id).map(<[u8]>::len));
        let (count, total) =
            lengths.fold((0, 0), |(count, total), length| (count + 1, usize::saturating_add(total, length)));
        out.try_reserve(total.saturating_add(CHUNK)).map_err(|_| {
            Error::Argument(format!("ids: {count} of them stand for {total} bytes, for which there is no memory"))
        })?;
        let mut end = out.len();
        for &id in &ids[..count] {
            let Some(bytes) = self.get(id) else { break };
            let start = bytes.as_ptr() as usize - self.bytes.as_ptr() as usize;
            // SAFETY: the bytes of the ids that are left, and CHUNK more, fit behind `end`: as much was reserved.
            unsafe {
                let place = out.as_mut_ptr().add(end);
                match self.bytes[start..].first_chunk::<CHUNK>() {
                    // A copy of fixed size is a single instruction; what it brings too much is written over.
                    Some(chunk) if bytes.len() <= CHUNK => place.cast::<[u8; CHUNK]>().write_unaligned(*chunk),
                    _ => std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()),
                }
            }
            end += bytes.len();
        }
        // SAFETY: all bytes up to there were written.
        unsafe { out.set_len(end) };
        Ok(count)
    }

    /// Ids and bytes in the order of ids, without the holes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.get(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_gpt2_does() {
        assert_eq!((byte_to_char(b'a'), byte_to_char(b' '), byte_to_char(0)), ('a', 'Ġ', 'Ā'));
        assert_eq!((byte_to_char(b'\n'), byte_to_char(0xad), byte_to_char(0xff)), ('Ċ', 'Ń', 'ÿ'));
        let spelling = ByteSpelling::new();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(spelling.read(&spelling.spell(&all)), Some(all));
        assert_eq!(spelling.read("中"), None);
    }

    #[test]
    fn byte_order_follows_the_spelling() {
        assert!(BYTE_ORDER.is_sorted_by_key(|&byte| byte_to_char(byte)));
        assert_eq!((BYTE_ORDER[0], BYTE_ORDER[255]), (b'!', 0xad));
    }

    #[test]
    fn what_memory_cannot_hold_is_an_error() {
        let long = vec![vec![b'a'; 1 << 25]];
        let vocabulary = Vocabulary::new(&long).unwrap();
        let error = vocabulary.append(&vec![0; 1 << 22], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("ids: 4194304 of them stand for 140737488355328 bytes"), "{error}");
        assert!(Vocabulary::new(&[long, vec![vec![b'b'; (1 << 25) + 1]]].concat()).is_err());
    }
}
