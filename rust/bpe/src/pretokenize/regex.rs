//! Patterns that are given as regexes, one or several that cut one after another.
//!
//! A match is a pre-token, and so is what lies between two matches; an empty match cuts where it stands. Text that is
//! not UTF-8 is cut in its valid parts; what lies between those stands alone.

use std::hash::{Hash, Hasher};

use fancy_regex::RegexBuilder;
use regex_automata::meta;
use regex_automata::{Anchored, Input, PatternID};

use super::{Pattern, spelled};
use crate::{Cancel, Error};

/// Longest text of a pattern.
const LONGEST: usize = 1 << 14;
/// Most regexes that cut one after another.
const MOST: usize = 16;
/// Deepest nesting of groups and classes, for which engines recurse.
const DEEPEST: usize = 64;
/// Steps that the backtracking engine may take for one match.
pub const BACKTRACK_LIMIT: usize = 1_000_000;
/// Memory that a compiled regex may take.
const COMPILED_LIMIT: usize = 32 << 20;
/// Matches between two looks at the cancel flag.
const CHECK: u32 = 1 << 10;

/// The ends that many patterns share, which need no look-ahead: a run of white space without its last character, if
/// more than one and not at the end of the text; else the run.
const SPACE_ENDS: [&str; 2] = [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)|\s"];

/// Cuts text by regexes.
#[derive(Debug)]
pub struct Cutter {
    source: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Scanner(Pattern),
    Linear(meta::Regex),
    /// Patterns 0 to 3: the alternatives before the space, and the space at the end, before other space, before text.
    Spaces(meta::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

impl PartialEq for Cutter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Cutter {}

impl Hash for Cutter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl Cutter {
    /// From its text: a regex or a pattern's name on each line.
    pub fn new(source: &str) -> Result<Self, Error> {
        if source.len() > LONGEST {
            return Err(Error::Argument(format!("pattern: {} bytes: the limit is {LONGEST}", source.len())));
        }
        let lines: Vec<&str> = source.split('\n').collect();
        if lines.len() > MOST {
            return Err(Error::Argument(format!("pattern: {} regexes: the limit is {MOST}", lines.len())));
        }
        let steps: Vec<Step> = lines.iter().map(|line| Step::new(line)).collect::<Result<_, _>>()?;
        let canonical = steps.iter().zip(&lines).map(|(step, line)| match step {
            Step::Scanner(pattern) => pattern.name(),
            _ => line,
        });
        Ok(Self { source: canonical.collect::<Vec<_>>().join("\n"), steps })
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The regex of each step.
    pub fn regexes(&self) -> impl Iterator<Item = &str> {
        self.source.split('\n').map(|line| Pattern::named(line).and_then(|known| known.regex()).unwrap_or(line))
    }

    /// Calls `each` with start and end of every pre-token.
    pub fn cut(
        &self,
        text: &[u8],
        cancel: &Cancel,
        each: &mut dyn FnMut(usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut valid_start = 0;
        while valid_start < text.len() {
            let rest = &text[valid_start..];
            let valid = match std::str::from_utf8(rest) {
                Ok(valid) => valid,
                Err(error) => std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
            };
            cut_steps(&self.steps, valid, valid_start, cancel, each)?;
            valid_start += valid.len();
            let invalid = invalid_end(&text[valid_start..]);
            if invalid > 0 {
                each(valid_start, valid_start + invalid)?;
                valid_start += invalid;
            }
        }
        Ok(())
    }
}

/// Bytes until the next valid character.
fn invalid_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        match std::str::from_utf8(&bytes[at..(at + 4).min(bytes.len())]) {
            Ok(_) => break,
            Err(error) if error.valid_up_to() > 0 => break,
            Err(error) => at += error.error_len().unwrap_or(bytes.len() - at).max(1),
        }
    }
    at
}

fn cut_steps(
    steps: &[Step],
    text: &str,
    offset: usize,
    cancel: &Cancel,
    each: &mut dyn FnMut(usize, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some((step, later)) = steps.split_first() else {
        return if text.is_empty() { Ok(()) } else { each(offset, offset + text.len()) };
    };
    step.cut(text, cancel, &mut |start, end| cut_steps(later, &text[start..end], offset + start, cancel, each))
}

impl Step {
    fn new(regex: &str) -> Result<Self, Error> {
        if let Some(pattern) = Pattern::named(regex).filter(|known| known.regex().is_some()).or_else(|| spelled(regex))
        {
            return Ok(Self::Scanner(pattern));
        }
        let refused =
            |reason: String| Error::Argument(format!("pattern: the regex {:?} is refused: {reason}", shortened(regex)));
        if Pattern::named(regex).is_some() {
            return Err(refused("that name can only stand alone".into()));
        }
        if regex.is_empty() {
            return Err(refused("it is empty".into()));
        }
        if nesting(regex) > DEEPEST {
            return Err(refused(format!("it nests deeper than {DEEPEST}")));
        }
        if names_line_ends(regex) {
            return Err(refused(r"^ and $ mean other things to other engines: write \A, \z or (?m:...)".into()));
        }
        if let Some(linear) = SPACE_ENDS.iter().find_map(|end| with_spaces(regex.strip_suffix(end)?)) {
            return Ok(Self::Spaces(linear));
        }
        if let Some(linear) = compile(&[regex]) {
            return Ok(Self::Linear(linear));
        }
        RegexBuilder::new(regex)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(COMPILED_LIMIT)
            .delegate_dfa_size_limit(COMPILED_LIMIT)
            .build()
            .map(|regex| Self::Backtracking(Box::new(regex)))
            .map_err(|error| refused(error.to_string()))
    }

    fn cut(
        &self,
        text: &str,
        cancel: &Cancel,
        each: &mut dyn FnMut(usize, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut at = 0;
        if let Self::Scanner(pattern) = self {
            while at < text.len() {
                let end = pattern.piece_end(text.as_bytes(), at);
                each(at, end)?;
                at = end;
            }
            return Ok(());
        }
        let mut from = 0;
        let mut matches = 0u32;
        while from < text.len() {
            matches = matches.wrapping_add(1);
            if matches.is_multiple_of(CHECK) {
                cancel.check()?;
            }
            let Some((start, end)) = self.find(text, from)? else { break };
            if start > at {
                each(at, start)?;
            }
            if end > start {
                each(start, end)?;
                from = end;
            } else {
                from = end + text[end..].chars().next().map_or(1, char::len_utf8);
            }
            at = end;
        }
        if at < text.len() { each(at, text.len()) } else { Ok(()) }
    }

    fn find(&self, text: &str, from: usize) -> Result<Option<(usize, usize)>, Error> {
        match self {
            Self::Scanner(pattern) => Ok(Some((from, pattern.piece_end(text.as_bytes(), from)))),
            Self::Linear(regex) => Ok(search(regex, text, from).map(|(_, start, end)| (start, end))),
            Self::Spaces(regex) => Ok(search(regex, text, from).map(|(pattern, start, end)| {
                let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
                (start, if pattern.as_usize() == 2 { end - last } else { end })
            })),
            Self::Backtracking(regex) => match regex.find_from_pos(text, from) {
                Ok(found) => Ok(found.map(|found| (found.start(), found.end()))),
                Err(error) => Err(Error::Argument(format!(
                    "pattern: the regex {:?} gave up at byte {from} of a text ({error}; a match may take \
                     {BACKTRACK_LIMIT} steps)",
                    shortened(regex.as_str())
                ))),
            },
        }
    }
}

fn search(regex: &meta::Regex, text: &str, from: usize) -> Option<(PatternID, usize, usize)> {
    let found = regex.search(&Input::new(text).range(from..).anchored(Anchored::No))?;
    Some((found.pattern(), found.start(), found.end()))
}

/// Earlier ones go first where several match, as alternatives do.
fn with_spaces(before: &str) -> Option<meta::Regex> {
    compile(&[before, r"\s+\z", r"\s+\s", r"\s+"])
}

fn compile(regexes: &[&str]) -> Option<meta::Regex> {
    meta::Builder::new().configure(meta::Config::new().nfa_size_limit(Some(COMPILED_LIMIT))).build_many(regexes).ok()
}

fn nesting(regex: &str) -> usize {
    let mut deepest = 0;
    let mut depth = 0usize;
    for byte in regex.bytes() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A bare `^` or `$`: the text's ends to Rust and Python, each line's to Oniguruma (Hugging Face).
fn names_line_ends(regex: &str) -> bool {
    let mut in_class = 0usize;
    let mut before = None;
    let mut chars = regex.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => {
                chars.next();
            }
            '[' => in_class += 1,
            ']' if before != Some('[') => in_class = in_class.saturating_sub(1),
            '^' | '$' if in_class == 0 => return true,
            _ => {}
        }
        before = Some(char);
    }
    false
}

/// Enough of a regex to know it again.
fn shortened(regex: &str) -> &str {
    regex.char_indices().nth(80).map_or(regex, |(end, _)| &regex[..end])
}
