//! Ids with the places in the text that they stand for.

use crate::front::Piece;
use crate::special::{Allowed, SpecialToken};
use crate::tokenizer::Tokenizer;
use crate::{Cancel, Error};

/// Ids, and for each the start and end in bytes of the text that it was made of.
#[derive(Debug, Default)]
pub struct WithOffsets {
    /// The ids.
    pub ids: Vec<u32>,
    /// Start and end of each.
    pub offsets: Vec<(u64, u64)>,
}

impl Tokenizer {
    /// The ids of a text as [`Tokenizer::encode`] gives them, with their places. What normalization made of several
    /// characters has the place of all of them; a special token's place has the space that it swallows.
    pub fn encode_with_offsets(
        &self,
        text: &[u8],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<WithOffsets, Error> {
        let mut found = WithOffsets::default();
        self.walk(text, &self.plan(allowed, disallowed)?, cancel, |part, piece| match piece {
            Piece::Token { id, start, end } => {
                let (start, end) = part.original(start, end);
                found.ids.push(id);
                found.offsets.push((start as u64, end as u64));
                Ok(())
            }
            Piece::Text { start, end } => {
                let first = found.ids.len();
                self.encode_text(&part.text[start..end], cancel, &mut found.ids)?;
                let mut at = start;
                for &id in &found.ids[first..] {
                    let length = self.token(id)?.len();
                    let (from, next) = self.place_of(length, &part.text[..end], at);
                    at = from;
                    let (start, end) = part.original(at, next);
                    found.offsets.push((start as u64, end as u64));
                    at = next;
                }
                Ok(())
            }
        })?;
        Ok(found)
    }

    /// Start and end of a token of `length` bytes in a text from `at` on; bytes that no token is made of do not count.
    fn place_of(&self, length: usize, text: &[u8], mut at: usize) -> (usize, usize) {
        let Some(missing) = &self.missing else { return (at, at + length) };
        let skip = |mut at: usize| {
            while text.get(at).is_some_and(|&byte| missing.is(byte)) {
                at += 1;
            }
            at
        };
        at = skip(at);
        let end = (1..length).fold(at + 1, |end, _| skip(end) + 1);
        (at, end.min(text.len()))
    }

    /// The last place where a text can be cut so that its parts have the ids of the whole; none for some texts.
    pub fn last_safe_start(&self, text: &[u8]) -> Option<usize> {
        let cut_through = |token: &SpecialToken| {
            token.content.contains('\n') || token.flags.lstrip || token.flags.rstrip || token.flags.single_word
        };
        if self.special_tokens().iter().any(cut_through) {
            return None;
        }
        self.pattern().last_safe_start(text)
    }
}

/// Offsets in bytes turned into offsets in characters: a token that is part of a character has the place of the whole
/// character. A lone surrogate's three bytes are one character.
pub fn to_characters(text: &[u8], offsets: &mut [(u64, u64)]) {
    let (mut at, mut chars) = (0usize, 0u64);
    let mut count_to = |place: u64| {
        // Tokens stand in the order of the text, but a character's parts go back to its start.
        while at < place as usize {
            chars += u64::from(text[at] & 0xc0 != 0x80);
            at += 1;
        }
        while at > place as usize {
            at -= 1;
            chars -= u64::from(text[at] & 0xc0 != 0x80);
        }
        chars
    };
    let mut before = ((0, 0), (0, 0));
    for (start, end) in offsets {
        // Many tokens may stand for one stretch: it is walked through once.
        if before.0 == (*start, *end) {
            (*start, *end) = before.1;
            continue;
        }
        before.0 = (*start, *end);
        let inside = text.get(*start as usize).is_some_and(|byte| byte & 0xc0 == 0x80);
        let first = count_to(*start) - u64::from(inside);
        let last = count_to(*end);
        before.1 = (first, last);
        (*start, *end) = before.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_character_have_its_place() {
        let mut offsets = [(0, 1), (1, 2), (2, 4), (4, 5)];
        to_characters("a中b".as_bytes(), &mut offsets);
        assert_eq!(offsets, [(0, 1), (1, 2), (1, 2), (2, 3)]);
    }
}
