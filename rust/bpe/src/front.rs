//! What Hugging Face's files may do to a text before it is cut: Unicode normalization (NFC), and added tokens that are
//! matched whether allowed or not, that swallow the space around them, or that must stand as a word.
//!
//! As `tokenizers` has it: tokens that are not `normalized` are looked for in the text as it is, the others in what
//! lies between them, after normalization. The rest is ordinary text.

use std::borrow::Cow;
use std::cell::OnceCell;

use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::FxHashSet;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::special::{Allowed, Flags, SpecialToken};
use crate::unicode::{LETTER, NUMBER, SPACE, char_at};
use crate::{Cancel, Error};

/// Whether, and for which tokens, there is something to do.
#[derive(Debug)]
pub struct Front {
    nfc: bool,
    all: Active,
    /// With no special token allowed.
    none: Active,
}

/// The tokens of a call: those kept ready, or made for it.
pub enum Chosen<'f> {
    Kept(&'f Active),
    Made(Active),
}

/// The tokens to look for in one call.
#[derive(Debug)]
pub struct Active {
    as_is: Option<Search>,
    normalized: Option<Search>,
}

#[derive(Debug)]
struct Search {
    automaton: AhoCorasick,
    tokens: Vec<SpecialToken>,
}

/// A stretch of the text, normalized as a whole.
pub struct Part<'t> {
    original: &'t [u8],
    start: usize,
    /// What is encoded.
    pub text: Cow<'t, [u8]>,
    alignment: OnceCell<Vec<Stretch>>,
}

/// Where a stretch of characters that normalization sees together ends, after it and before it.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    end: usize,
    original_end: usize,
    changed: bool,
}

/// A piece of a part's text, from `start` to `end`.
pub enum Piece {
    /// A token that was found.
    Token {
        /// Its id.
        id: u32,
        /// Start, with the space that it swallows.
        start: usize,
        /// End, likewise.
        end: usize,
    },
    /// Ordinary text.
    Text {
        /// Start.
        start: usize,
        /// End.
        end: usize,
    },
}

impl Front {
    /// None if the plain search for special tokens does all there is to do.
    pub fn new(nfc: bool, tokens: &[SpecialToken]) -> Result<Option<Self>, Error> {
        let plain = |token: &SpecialToken| token.special && Flags { normalized: false, ..token.flags }.are_plain();
        // Without normalization the two kinds differ only in who is looked for first.
        let one_kind = tokens.windows(2).all(|pair| pair[0].flags.normalized == pair[1].flags.normalized);
        if !nfc && one_kind && tokens.iter().all(plain) {
            return Ok(None);
        }
        let none = Active::new(nfc, tokens.iter().filter(|token| !token.special))?;
        Ok(Some(Self { nfc, all: Active::new(nfc, tokens.iter())?, none }))
    }

    /// Whether text is normalized.
    pub fn nfc(&self) -> bool {
        self.nfc
    }

    /// The tokens that are not special, and of the special ones those allowed.
    pub fn choose(&self, tokens: &[SpecialToken], allowed: &Allowed) -> Result<Chosen<'_>, Error> {
        let names: FxHashSet<&str> = match allowed {
            Allowed::All => return Ok(Chosen::Kept(&self.all)),
            Allowed::Some(names) => names.iter().map(String::as_str).collect(),
        };
        let wanted = |token: &&SpecialToken| !token.special || names.contains(token.content.as_str());
        if !tokens.iter().any(|token| token.special && wanted(&token)) {
            return Ok(Chosen::Kept(&self.none));
        }
        Active::new(self.nfc, tokens.iter().filter(wanted)).map(Chosen::Made)
    }

    /// Calls `each` with every piece of the text.
    pub fn walk(
        &self,
        text: &[u8],
        chosen: &Chosen<'_>,
        cancel: &Cancel,
        mut each: impl FnMut(&Part<'_>, Piece) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let active = match chosen {
            Chosen::Kept(active) => active,
            Chosen::Made(active) => active,
        };
        let whole = Part::as_it_is(text);
        split(active.as_is.as_ref(), &whole, cancel, &mut |piece| match piece {
            Piece::Token { .. } => each(&whole, piece),
            Piece::Text { start, end } => {
                let part = Part::new(&text[start..end], start, self.nfc);
                split(active.normalized.as_ref(), &part, cancel, &mut |piece| each(&part, piece))
            }
        })
    }
}

impl Active {
    fn new<'a>(nfc: bool, tokens: impl Iterator<Item = &'a SpecialToken>) -> Result<Self, Error> {
        let (normalized, as_is): (Vec<_>, Vec<_>) = tokens.cloned().partition(|token| token.flags.normalized);
        Ok(Self { as_is: Search::new(false, as_is)?, normalized: Search::new(nfc, normalized)? })
    }
}

impl Search {
    fn new(nfc: bool, tokens: Vec<SpecialToken>) -> Result<Option<Self>, Error> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let contents = tokens.iter().map(|token| normalize(token.content.as_bytes(), nfc));
        AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(contents)
            .map(|automaton| Some(Self { automaton, tokens }))
            .map_err(|error| Error::format(format!("added tokens: {error}")))
    }
}

impl<'t> Part<'t> {
    /// A text that nothing is done to.
    pub fn as_it_is(text: &'t [u8]) -> Self {
        Self::new(text, 0, false)
    }

    fn new(original: &'t [u8], start: usize, nfc: bool) -> Self {
        Self { original, start, text: normalize(original, nfc), alignment: OnceCell::new() }
    }

    /// Where in the whole original text a stretch of this part's text comes from.
    pub fn original(&self, start: usize, end: usize) -> (usize, usize) {
        if matches!(self.text, Cow::Borrowed(_)) {
            return (self.start + start, self.start + end);
        }
        let stretches = self.alignment.get_or_init(|| align(self.original));
        let find = |at: usize, is_end: bool| {
            let index = stretches.partition_point(|stretch| if is_end { stretch.end < at } else { stretch.end <= at });
            let before =
                index.checked_sub(1).map_or((0, 0), |before| (stretches[before].end, stretches[before].original_end));
            match stretches.get(index) {
                Some(stretch) if stretch.changed => {
                    if is_end {
                        stretch.original_end
                    } else {
                        before.1
                    }
                }
                _ => before.1 + (at - before.0),
            }
        };
        let first = find(start, false);
        (self.start + first, self.start + if end > start { find(end, true) } else { first })
    }
}

fn normalize(bytes: &[u8], nfc: bool) -> Cow<'_, [u8]> {
    if !nfc || bytes.is_ascii() || bytes.utf8_chunks().all(|chunk| is_normal(chunk.valid())) {
        return Cow::Borrowed(bytes);
    }
    let mut normalized = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        if is_normal(chunk.valid()) {
            normalized.extend_from_slice(chunk.valid().as_bytes());
        } else {
            let mut buffer = [0; 4];
            chunk.valid().nfc().for_each(|char| normalized.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes()));
        }
        normalized.extend_from_slice(chunk.invalid());
    }
    if normalized == bytes { Cow::Borrowed(bytes) } else { Cow::Owned(normalized) }
}

fn is_normal(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

/// Characters before which nothing that follows can change what stands there.
fn starts_stretch(char: char) -> bool {
    canonical_combining_class(char) == 0 && is_nfc_quick(std::iter::once(char)) == IsNormalized::Yes
}

fn align(original: &[u8]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut ends = (0, 0);
    let mut add = |bytes: &[u8], normal: bool| {
        let normalized = normalize(bytes, !normal);
        ends = (ends.0 + normalized.len(), ends.1 + bytes.len());
        let stretch = Stretch { end: ends.0, original_end: ends.1, changed: *normalized != *bytes };
        match stretches.last_mut() {
            Some(last) if !last.changed && !stretch.changed => *last = stretch,
            _ => stretches.push(stretch),
        }
    };
    for chunk in original.utf8_chunks() {
        let valid = chunk.valid();
        let mut start = 0;
        for (at, char) in valid.char_indices() {
            if at > start && starts_stretch(char) {
                add(&valid.as_bytes()[start..at], false);
                start = at;
            }
        }
        add(&valid.as_bytes()[start..], false);
        add(chunk.invalid(), true);
    }
    stretches
}

/// Tokens and the text between them, in order.
fn split(
    search: Option<&Search>,
    part: &Part<'_>,
    cancel: &Cancel,
    each: &mut dyn FnMut(Piece) -> Result<(), Error>,
) -> Result<(), Error> {
    let text = &*part.text;
    let mut done = 0;
    if let Some(search) = search {
        for found in search.automaton.find_iter(text) {
            cancel.check()?;
            let token = &search.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            let flags = token.flags;
            if start < done || (flags.single_word && !stands_alone(text, start, end)) {
                continue;
            }
            if flags.lstrip {
                start = space_before(text, start, done);
            }
            if flags.rstrip {
                end = space_after(text, end);
            }
            if start > done {
                each(Piece::Text { start: done, end: start })?;
            }
            each(Piece::Token { id: token.id, start, end })?;
            done = end;
        }
    }
    if done < text.len() { each(Piece::Text { start: done, end: text.len() }) } else { Ok(()) }
}

fn stands_alone(text: &[u8], start: usize, end: usize) -> bool {
    let is_word = |at: usize| text[at] == b'_' || char_at(text, at).0 & (LETTER | NUMBER) != 0;
    let before = char_start(text, start);
    let joined_before = before < start && is_word(before);
    let joined_after = end < text.len() && is_word(end);
    !joined_before && !joined_after
}

fn space_before(text: &[u8], mut at: usize, least: usize) -> usize {
    while at > least {
        let before = char_start(text, at);
        if before < least || char_at(text, before).0 & SPACE == 0 {
            break;
        }
        at = before;
    }
    at
}

fn space_after(text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, length) = char_at(text, at);
        if class & SPACE == 0 {
            break;
        }
        at += length;
    }
    at
}

/// Where the character that ends at `end` starts.
fn char_start(text: &[u8], end: usize) -> usize {
    let least = end.saturating_sub(4);
    (least..end).rev().find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_of_composed_characters_cover_what_they_were_made_of() {
        let part = Part::new("ae\u{301}b\u{1112}\u{1161}\u{11ab}c".as_bytes(), 10, true);
        assert_eq!(&*part.text, "aéb한c".as_bytes());
        assert_eq!(part.original(0, 1), (10, 11));
        assert_eq!(part.original(1, 3), (11, 14));
        assert_eq!(part.original(2, 3), (11, 14));
        assert_eq!(part.original(3, 4), (14, 15));
        assert_eq!(part.original(4, 7), (15, 24));
        assert_eq!(part.original(7, 8), (24, 25));
    }

    proptest! {
        #[test]
        fn stretches_normalize_alone(text in "(\\PC|e\u{301}|\u{323}|\u{1112}\u{1161}|\u{11ab}|\u{344}|a){0,12}") {
            let part = Part::new(text.as_bytes(), 0, true);
            let expected: String = text.nfc().collect();
            prop_assert_eq!(&*part.text, expected.as_bytes());
            let stretches = align(text.as_bytes());
            prop_assert_eq!(stretches.last().map_or(0, |last| last.end), expected.len());
            prop_assert_eq!(stretches.last().map_or(0, |last| last.original_end), text.len());
            let (mut start, mut original_start) = (0, 0);
            for stretch in stretches {
                let alone: String = text[original_start..stretch.original_end].nfc().collect();
                prop_assert_eq!(&alone, &expected[start..stretch.end]);
                (start, original_start) = (stretch.end, stretch.original_end);
            }
        }
    }
}
