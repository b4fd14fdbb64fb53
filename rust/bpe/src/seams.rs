//! Seams: places inside a pre-token that no token of the vocabulary can stand across, so that the parts on both sides
//! are encoded alone. Unspaced scripts have pre-tokens that hardly come twice, but their parts are few.
//!
//! Looked for between two characters of at most three bytes, given as the 16 bits of their code.

use crate::vocabulary::Vocabulary;

/// What tokens hold around their inner borders of characters.
#[derive(Debug)]
pub struct Seams {
    /// Bits set where the hash of two neighbours inside a token points.
    pairs: Box<[u64; PAIR_WORDS]>,
    /// Characters before a token's part of a character.
    open_right: Box<[u64; 1 << 10]>,
    /// Characters after a token's part of a character.
    open_left: Box<[u64; 1 << 10]>,
    /// By the last byte of one part: the first bytes of the other.
    between_parts: [u64; 64],
}

/// Whether a pre-token is worth looking through: one with a character of three bytes at its start, or behind one byte.
#[inline(always)]
pub fn may_be_in(piece: &[u8]) -> bool {
    piece.len() > 8 && (piece[0] >= 0xe0 || piece[1] >= 0xe0)
}

/// 64 KiB: o200k, of 200,000 tokens, sets one bit in 44.
const PAIR_WORDS: usize = 1 << 13;

impl Seams {
    /// Of all tokens, made by merges or not.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let mut seams = Self {
            pairs: Box::new([0; PAIR_WORDS]),
            open_right: Box::new([0; 1 << 10]),
            open_left: Box::new([0; 1 << 10]),
            between_parts: [0; 64],
        };
        for (_, token) in vocabulary.iter() {
            for at in 1..token.len() {
                if token[at] & 0xc0 != 0x80 {
                    seams.add(Edge::end_of(&token[..at]), Edge::start_of(&token[at..]));
                }
            }
        }
        seams
    }

    fn add(&mut self, before: Edge, after: Edge) {
        match (before, after) {
            (Edge::Whole(last), Edge::Whole(next)) => {
                let (word, bit) = place(last, next);
                self.pairs[word] |= bit;
            }
            (Edge::Whole(last), Edge::Part(_)) => self.open_right[usize::from(last) / 64] |= 1 << (last % 64),
            (Edge::Part(_), Edge::Whole(next)) => self.open_left[usize::from(next) / 64] |= 1 << (next % 64),
            (Edge::Part(last), Edge::Part(first)) => {
                self.between_parts[usize::from(last & 0x3f)] |= 1 << (first & 0x3f);
            }
            (Edge::Other, _) | (_, Edge::Other) => {}
        }
    }

    /// Whether no token stands across the border of two neighbours.
    #[inline(always)]
    fn between(&self, last: u16, next: u16) -> bool {
        let (word, bit) = place(last, next);
        let crossed = self.pairs[word] & bit != 0
            || self.open_right[usize::from(last) / 64] >> (last % 64) & 1 != 0
            || self.open_left[usize::from(next) / 64] >> (next % 64) & 1 != 0
            || self.between_parts[usize::from(last & 0x3f)] >> (first_byte(next) & 0x3f) & 1 != 0;
        !crossed
    }

    /// The first seam of `piece`; else its end.
    #[inline]
    pub fn next(&self, piece: &[u8]) -> usize {
        let mut at = 0;
        let mut last = None;
        while at < piece.len() {
            let (next, length) = char_at(&piece[at..]);
            if let (Some(last), Some(next)) = (last, next)
                && self.between(last, next)
            {
                return at;
            }
            at += length;
            last = next;
        }
        piece.len()
    }
}

/// What a token has beside one of its inner borders.
#[derive(Clone, Copy)]
enum Edge {
    /// A character.
    Whole(u16),
    /// The rest of one, or its beginning: the byte beside the border, or the first.
    Part(u8),
    /// What valid text does not have there, or a character of four bytes.
    Other,
}

impl Edge {
    fn end_of(before: &[u8]) -> Self {
        let Some(lead) = before.iter().rposition(|byte| byte & 0xc0 != 0x80) else {
            return Self::Part(before[before.len() - 1]);
        };
        match char_at(&before[lead..]) {
            (Some(code), length) if lead + length == before.len() => Self::Whole(code),
            _ => Self::Other,
        }
    }

    fn start_of(after: &[u8]) -> Self {
        let rest = after[1..].iter().take_while(|&byte| byte & 0xc0 == 0x80).count();
        match char_at(after) {
            (Some(code), _) => Self::Whole(code),
            _ if after.len() == 1 + rest && rest < 2 && after[0] >= 0xc0 => Self::Part(after[0]),
            _ => Self::Other,
        }
    }
}

/// The code of the character that `text` starts with, and its length; bytes that are none, and characters of four
/// bytes, have no code and are taken one by one.
#[inline(always)]
fn char_at(text: &[u8]) -> (Option<u16>, usize) {
    match *text {
        [first, ..] if first < 0x80 => (Some(u16::from(first)), 1),
        [first, second, third, ..] if first & 0xf0 == 0xe0 && second & 0xc0 == 0x80 && third & 0xc0 == 0x80 => {
            (Some(u16::from(first) << 12 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f)), 3)
        }
        [first, second, ..] if first & 0xe0 == 0xc0 && second & 0xc0 == 0x80 => {
            (Some(u16::from(first & 0x1f) << 6 | u16::from(second & 0x3f)), 2)
        }
        _ => (None, 1),
    }
}

/// Of the character of a code.
#[inline(always)]
fn first_byte(code: u16) -> u8 {
    match code {
        0..0x80 => code as u8,
        0x80..0x800 => 0xc0 | (code >> 6) as u8,
        _ => 0xe0 | (code >> 12) as u8,
    }
}

#[inline(always)]
fn place(last: u16, next: u16) -> (usize, u64) {
    let hash = (u32::from(last) << 16 | u32::from(next)).wrapping_mul(0x9e37_79b9);
    ((hash >> 19) as usize, 1 << (hash >> 13 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_token_stands_across_a_seam(
            tokens in prop::collection::vec(prop::sample::subsequence("的中文字é a".as_bytes().repeat(2), 1..9), 1..30),
            text in "[的中文字é a]{1,12}",
        ) {
            let seams = Seams::new(&Vocabulary::new(&tokens).unwrap());
            let text = text.as_bytes();
            let mut at = 0;
            while at < text.len() {
                at += seams.next(&text[at..]);
                for token in tokens.iter().filter(|token| token.len() > 1) {
                    for start in at.saturating_sub(token.len() - 1)..at {
                        let stands_across = at < text.len() && text[start..].starts_with(token);
                        prop_assert!(!stands_across, "{token:?} at {start} across {at}");
                    }
                }
            }
        }
    }
}
