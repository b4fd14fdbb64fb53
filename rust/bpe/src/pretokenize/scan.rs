//! The scanners: each returns the end of the pre-token at `at`, trying the regex's alternatives in their order.

use crate::unicode::{LETTER, LOWER, NEWLINE, NUMBER, SPACE, UPPER, char_at};

const WORDLIKE: u8 = LETTER | NUMBER | SPACE;

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub fn gpt2(text: &[u8], at: usize) -> usize {
    if let Some(end) = contraction(text, at, false) {
        return end;
    }
    let start = at + usize::from(text[at] == b' ');
    if start < text.len() {
        let (class, length) = char_at(text, start);
        if class & LETTER != 0 {
            return run(text, start + length, |class| class & LETTER != 0);
        }
        if class & NUMBER != 0 {
            return run(text, start + length, |class| class & NUMBER != 0);
        }
        if class & SPACE == 0 {
            return run(text, start + length, |class| class & WORDLIKE == 0);
        }
    }
    space(text, at).end(text, at)
}

/// The family of cl100k: at most `DIGITS` digits a piece; with `TRAILING` the alternative `\s+\z` stands before
/// `\s*[\r\n]+`, so that white space at the end of the text is one piece.
pub fn cl100k<const DIGITS: usize, const TRAILING: bool>(text: &[u8], at: usize) -> usize {
    if let Some(end) = contraction(text, at, true) {
        return end;
    }
    let (class, length) = char_at(text, at);
    let next = at + length;
    if class & LETTER != 0 {
        return run(text, next, |class| class & LETTER != 0);
    }
    if class & NUMBER != 0 {
        return digits(text, next, DIGITS - 1);
    }
    if class & NEWLINE == 0 && next < text.len() {
        let (second, second_length) = char_at(text, next);
        if second & LETTER != 0 {
            return run(text, next + second_length, |class| class & LETTER != 0);
        }
    }
    if let Some(end) = punctuation(text, at) {
        return run(text, end, |class| class & NEWLINE != 0);
    }
    let space = space(text, at);
    if TRAILING && space.run_end == text.len() { space.run_end } else { space.line_end(text, at) }
}

/// Words with their case, then as `cl100k`, but that `/` may follow punctuation.
pub fn o200k(text: &[u8], at: usize) -> usize {
    let (class, length) = char_at(text, at);
    let next = at + length;
    if let Some(end) = cased_word(text, at, class, next) {
        return contraction(text, end, true).unwrap_or(end);
    }
    if class & NUMBER != 0 {
        return digits(text, next, 2);
    }
    if let Some(mut end) = punctuation(text, at) {
        while text.get(end).is_some_and(|byte| matches!(byte, b'\r' | b'\n' | b'/')) {
            end += 1;
        }
        return end;
    }
    space(text, at).line_end(text, at)
}

/// ` ?\S+|\s+(?!\S)|\s+`
pub fn whitespace(text: &[u8], at: usize) -> usize {
    let start = at + usize::from(text[at] == b' ');
    if start < text.len() {
        let end = run(text, start, |class| class & SPACE == 0);
        if end > start {
            return end;
        }
    }
    space(text, at).end(text, at)
}

#[inline]
fn run(text: &[u8], mut at: usize, belongs: impl Fn(u8) -> bool) -> usize {
    while at < text.len() {
        let (class, length) = char_at(text, at);
        if !belongs(class) {
            break;
        }
        at += length;
    }
    at
}

fn digits(text: &[u8], mut at: usize, most: usize) -> usize {
    for _ in 0..most {
        if at >= text.len() {
            break;
        }
        let (class, length) = char_at(text, at);
        if class & NUMBER == 0 {
            break;
        }
        at += length;
    }
    at
}

/// ` ?[^\s\p{L}\p{N}]+`
fn punctuation(text: &[u8], at: usize) -> Option<usize> {
    let start = at + usize::from(text[at] == b' ');
    let end = run(text, start, |class| class & WORDLIKE == 0);
    (end > start).then_some(end)
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in lower case or (`any_case`) as `(?i:...)` reads it: the long s folds to s.
#[inline]
pub fn contraction(text: &[u8], at: usize, any_case: bool) -> Option<usize> {
    if text.get(at) != Some(&b'\'') {
        return None;
    }
    let fold = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
    let first = fold(*text.get(at + 1)?);
    match first {
        b's' | b't' | b'm' | b'd' => Some(at + 2),
        b'r' | b'v' if fold(*text.get(at + 2)?) == b'e' => Some(at + 3),
        b'l' if fold(*text.get(at + 2)?) == b'l' => Some(at + 3),
        0xc5 if any_case && text.get(at + 2) == Some(&0xbf) => Some(at + 3),
        _ => None,
    }
}

/// A run of white space: where it ends, where its last character starts, and the end of its last line break.
struct Space {
    run_end: usize,
    last_start: usize,
    break_end: Option<usize>,
}

fn space(text: &[u8], at: usize) -> Space {
    let mut space = Space { run_end: at, last_start: at, break_end: None };
    while space.run_end < text.len() {
        let (class, length) = char_at(text, space.run_end);
        if class & SPACE == 0 {
            break;
        }
        space.last_start = space.run_end;
        space.run_end += length;
        if class & NEWLINE != 0 {
            space.break_end = Some(space.run_end);
        }
    }
    space
}

impl Space {
    /// `\s+(?!\S)|\s+`: all of the run at the end of the text, else all but its last character, if that leaves any.
    fn end(&self, text: &[u8], at: usize) -> usize {
        if self.run_end == text.len() || self.last_start == at { self.run_end } else { self.last_start }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn line_end(&self, text: &[u8], at: usize) -> usize {
        self.break_end.unwrap_or_else(|| self.end(text, at))
    }
}

/// The two word alternatives of o200k without their contraction: `P?U*W+|P?U+W*` with
/// `P = [^\r\n\p{L}\p{N}]`, `U` = UPPER, `W` = LOWER.
fn cased_word(text: &[u8], at: usize, class: u8, next: usize) -> Option<usize> {
    let with_prefix = if class & (LETTER | NUMBER | NEWLINE) == 0 { letters(text, next) } else { Letters::Missing };
    if let Letters::Lower(end) = with_prefix {
        return Some(end);
    }
    let alone = if class & (UPPER | LOWER) != 0 { letters(text, at) } else { Letters::Missing };
    match (alone, with_prefix) {
        (Letters::Lower(end), _) | (_, Letters::Upper(end)) | (Letters::Upper(end), _) => Some(end),
        _ => None,
    }
}

enum Letters {
    /// `U*W+` matches up to here.
    Lower(usize),
    /// Only `U+` does.
    Upper(usize),
    Missing,
}

/// A regex takes all of `U*`, then gives back characters until `W+` finds one: either a lower-case letter follows the
/// run, or the last character of the run that is in both classes is all that `W+` gets.
fn letters(text: &[u8], start: usize) -> Letters {
    let mut at = start;
    let mut both_end = None;
    while at < text.len() {
        let (class, length) = char_at(text, at);
        if class & UPPER == 0 {
            if class & LOWER != 0 {
                return Letters::Lower(run(text, at + length, |class| class & LOWER != 0));
            }
            break;
        }
        at += length;
        if class & LOWER != 0 {
            both_end = Some(at);
        }
    }
    match both_end {
        Some(end) => Letters::Lower(end),
        None if at > start => Letters::Upper(at),
        None => Letters::Missing,
    }
}
