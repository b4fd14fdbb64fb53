//! Cuts text into pre-tokens: the pieces that merges never cross.
//!
//! Each pattern is defined by a regex and run by a scanner written by hand, in time linear in the text: no scanner
//! looks at a character more than a fixed number of times (docs/bpe.md has the argument for each). Windows of 64 bytes
//! find most of the same pre-tokens many times faster.

mod classes;
mod regex;
mod scan;
mod spellings;
mod window;

use std::sync::Arc;

pub use regex::{BACKTRACK_LIMIT, Cutter};
pub use spellings::spelled;
pub use window::ENDS;

use crate::unicode::{LETTER, SPACE, char_at};
use crate::{Cancel, Error};
use window::{Cut, Isa};

/// A way to cut text into pre-tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// GPT-2's (tiktoken's `r50k_base` and `p50k_base` too).
    Gpt2,
    /// tiktoken's `cl100k_base` (GPT-4).
    Cl100k,
    /// tiktoken's `o200k_base` (GPT-4o).
    O200k,
    /// Llama 3's: `Cl100k` but for space at the end of the text.
    Llama3,
    /// Qwen 2's and 3's: `Llama3` with one digit a piece.
    Qwen2,
    /// Words with the space before them; only white space separates.
    Whitespace,
    /// Each byte alone: nothing merges.
    Bytes,
    /// The text as a whole.
    None,
    /// Regexes of the user's or of a file, one cutting what the one before left.
    Regex(Arc<Cutter>),
}

impl Pattern {
    /// Every pattern that has a name, in the order of the documentation.
    pub const ALL: [Self; 8] =
        [Self::Gpt2, Self::Cl100k, Self::O200k, Self::Llama3, Self::Qwen2, Self::Whitespace, Self::Bytes, Self::None];

    /// The text that users write: a name, or the regexes, a line each.
    pub fn name(&self) -> &str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
            Self::Llama3 => "llama3",
            Self::Qwen2 => "qwen2",
            Self::Whitespace => "whitespace",
            Self::Bytes => "bytes",
            Self::None => "none",
            Self::Regex(cutter) => cutter.source(),
        }
    }

    /// The pattern of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name)
    }

    /// The pattern of that name or, where the text has more than letters, digits, `-` and `_`, of that regex. A regex
    /// that is known to cut as one of ours is that one. Several lines cut one after another; each is a regex or a name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        if let Some(pattern) = Self::named(name).or_else(|| spelled(name)) {
            return Ok(pattern);
        }
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(Error::UnknownPattern(name.into()));
        }
        Self::custom(name)
    }

    /// Of regexes or names, a line each, that cut one after another.
    pub fn custom(lines: &str) -> Result<Self, Error> {
        Cutter::new(lines).map(|cutter| Self::Regex(Arc::new(cutter)))
    }

    /// The regex that defines the pattern, in the syntax that both `fancy-regex` and Oniguruma (Hugging Face
    /// tokenizers) read alike; none for `Bytes` and `None`, which are not about characters, and for `Regex`.
    pub fn regex(&self) -> Option<&'static str> {
        match self {
            Self::Gpt2 => Some(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
            Self::Cl100k => Some(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Self::O200k => Some(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Self::Llama3 => Some(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Self::Qwen2 => Some(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            )),
            Self::Whitespace => Some(r" ?\S+|\s+(?!\S)|\s+"),
            Self::Bytes | Self::None | Self::Regex(_) => None,
        }
    }

    /// The end of the pre-token that starts at `at`, a pre-token's start in `text` (`at < text.len()`). Not for `Regex`,
    /// whose search may fail: see [`Pattern::cutter`].
    #[inline]
    pub fn piece_end(&self, text: &[u8], at: usize) -> usize {
        match self {
            Self::Gpt2 => scan::gpt2(text, at),
            Self::Cl100k => scan::cl100k::<3, true>(text, at),
            Self::O200k => scan::o200k(text, at),
            Self::Llama3 => scan::cl100k::<3, false>(text, at),
            Self::Qwen2 => scan::cl100k::<1, false>(text, at),
            Self::Whitespace => scan::whitespace(text, at),
            Self::Bytes => at + 1,
            Self::None | Self::Regex(_) => text.len(),
        }
    }

    /// Fills `ends` with the ends of the pre-tokens from `at` on, a pre-token's start in `text`; returns how many, at
    /// least one. All of `text` is done when the last of them is its end. Not for `Regex`.
    pub fn piece_ends(&self, text: &[u8], at: usize, ends: &mut [usize; ENDS]) -> usize {
        self.piece_ends_with(Isa::chosen(), text, at, ends)
    }

    #[inline]
    fn piece_ends_with(&self, isa: Isa, text: &[u8], mut at: usize, ends: &mut [usize; ENDS]) -> usize {
        let cut = match self {
            Self::Gpt2 => Cut::Gpt2,
            Self::Cl100k => Cut::Cl100k,
            Self::O200k => Cut::O200k,
            Self::Llama3 => Cut::Llama3,
            Self::Qwen2 => Cut::Qwen2,
            Self::Whitespace | Self::Bytes | Self::None | Self::Regex(_) => {
                let mut count = 0;
                while at < text.len() && count < ENDS {
                    at = self.piece_end(text, at);
                    ends[count] = at;
                    count += 1;
                }
                return count;
            }
        };
        isa.fill(cut, text, at, ends)
    }

    /// What cuts instead of [`Pattern::piece_end`] if the pattern is made of regexes.
    pub fn cutter(&self) -> Option<&Cutter> {
        if let Self::Regex(cutter) = self { Some(cutter) } else { None }
    }

    /// A place in `text` at or after `at` where a pre-token starts whatever stands before, for cutting work into
    /// parts that need not know each other; `text.len()` where there is none.
    pub fn safe_start(&self, text: &[u8], at: usize) -> usize {
        match self {
            Self::Bytes => at.min(text.len()),
            Self::None | Self::Regex(_) => text.len(),
            _ => self.letter_end(text, at),
        }
    }

    /// The last place in `text` where it can be cut into two texts with the same pre-tokens; none for some texts.
    pub fn last_safe_start(&self, text: &[u8]) -> Option<usize> {
        // No pattern joins a letter to the line break before it.
        let line = || (1..text.len()).rev().find(|&at| text[at - 1] == b'\n' && char_at(text, at).0 & LETTER != 0);
        match self {
            Self::Bytes => (!text.is_empty()).then_some(text.len()),
            Self::None | Self::Regex(_) => None,
            // Before a word a run of white space loses its last character, at the end of a text it does not.
            Self::Gpt2 | Self::Whitespace => line().map(|at| at - 1).filter(|&at| at > 0),
            _ => line(),
        }
    }
}

impl Pattern {
    /// The next place where a letter stands before white space or punctuation that it is not joined to.
    fn letter_end(&self, text: &[u8], at: usize) -> usize {
        let is_first = |byte: &u8| byte & 0xc0 != 0x80;
        let aligned = text.get(at..).and_then(|rest| rest.iter().position(is_first));
        let mut at = aligned.map_or(text.len(), |skipped| at + skipped);
        let mut before = 0;
        while at < text.len() {
            let (class, length) = char_at(text, at);
            let apart = class & SPACE != 0 || class == 0 && text[at] != b'\'' && *self != Self::Whitespace;
            if before & LETTER != 0 && apart {
                return at;
            }
            before = class;
            at += length;
        }
        text.len()
    }
}

/// The pre-tokens of `text`, in order; joined they are `text`.
pub fn pretokenize<'t>(text: &'t [u8], pattern: &Pattern) -> Result<Vec<&'t [u8]>, Error> {
    let mut pieces = Vec::new();
    each_piece(text, pattern, &Cancel::new(), &mut |start, end| {
        pieces.push(&text[start..end]);
        Ok(())
    })?;
    Ok(pieces)
}

/// Calls `each` with start and end of every pre-token.
pub(crate) fn each_piece(
    text: &[u8],
    pattern: &Pattern,
    cancel: &Cancel,
    each: &mut dyn FnMut(usize, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    if let Some(cutter) = pattern.cutter() {
        return cutter.cut(text, cancel, each);
    }
    let mut at = 0;
    while at < text.len() {
        let end = pattern.piece_end(text, at);
        each(at, end)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
