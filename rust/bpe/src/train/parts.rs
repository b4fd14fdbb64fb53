//! Cuts texts into parts that threads count by themselves.

use memmap2::Mmap;

use crate::Pattern;
use crate::special::Search;
use crate::unicode::{LETTER, SPACE, char_at};

/// Text that a thread counts at a time.
const PART: usize = 1 << 20;
/// Where this much text offers no place between two pre-tokens, it is cut all the same.
pub const LONGEST: usize = 16 << 20;

/// A text that counts `weight` times.
#[derive(Clone, Copy, Debug)]
pub struct Corpus<'a> {
    /// The text, which need not be UTF-8.
    pub text: &'a [u8],
    /// How often it counts.
    pub weight: u64,
}

/// A stretch `start..end` of a text, both at the start of a pre-token.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub text: &'a [u8],
    pub start: usize,
    pub end: usize,
    pub weight: u64,
    /// The file that the text lies in.
    pub map: Option<&'a Mmap>,
}

impl Part<'_> {
    /// Tells the system that the part of the file will not be read again, so need not stay in memory.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = self.map {
            let offset = self.text.as_ptr() as usize + self.start - map.as_ptr() as usize;
            // SAFETY: the map is of a file and read only: a page that is touched again is read again.
            let released = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, self.end - self.start)
            };
            // Advice: it does no harm if the system does not take it.
            drop(released);
        }
    }
}

/// The parts of a text between the special tokens in it.
pub struct Parts<'a> {
    rest: &'a [u8],
    /// What lies before the next special token, and how far it is handed out.
    text: &'a [u8],
    at: usize,
    pattern: &'a Pattern,
    specials: Option<&'a Search>,
    weight: u64,
    map: Option<&'a Mmap>,
}

impl<'a> Parts<'a> {
    pub fn new(corpus: Corpus<'a>, map: Option<&'a Mmap>, pattern: &'a Pattern, specials: Option<&'a Search>) -> Self {
        Self { rest: corpus.text, text: &[], at: 0, pattern, specials, weight: corpus.weight, map }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        while self.at == self.text.len() {
            if self.rest.is_empty() {
                return None;
            }
            let found = self.specials.and_then(|search| search.find(self.rest, 0));
            let (start, end, _) = found.unwrap_or((self.rest.len(), self.rest.len(), 0));
            (self.text, self.at) = (&self.rest[..start], 0);
            self.rest = &self.rest[end..];
        }
        let start = self.at;
        self.at = part_start(self.pattern, self.text, start + PART);
        Some(Part { text: self.text, start, end: self.at, weight: self.weight, map: self.map })
    }
}

/// A place at or after `at` where a pre-token starts, whatever stands before; or the end of the text, or where the
/// search is given up.
fn part_start(pattern: &Pattern, text: &[u8], at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    let limit = at.saturating_add(LONGEST);
    match pattern {
        Pattern::Bytes => return at,
        Pattern::None => return character_start(text, limit),
        // What a regex joins is not known.
        Pattern::Regex(_) => return text.len(),
        Pattern::Gpt2 | Pattern::Cl100k | Pattern::O200k | Pattern::Llama3 | Pattern::Qwen2 | Pattern::Whitespace => {}
    }
    let mut place = character_start(text, at);
    // White space before: nothing is known to start here.
    let mut before = SPACE;
    while place < limit.min(text.len()) {
        let (class, length) = char_at(text, place);
        // A space belongs to what follows, if not to more white space before it. After a letter, and where letters
        // and punctuation are not one word, a word ends; but o200k joins the apostrophe of a contraction to it.
        let starts = (before & SPACE == 0 && text[place] == b' ')
            || (before & LETTER != 0
                && *pattern != Pattern::Whitespace
                && (class & SPACE != 0 || (class == 0 && text[place] != b'\'')));
        if starts {
            return place;
        }
        before = class;
        place += length;
    }
    place
}

/// The start of the character at or after `at`: at most three bytes lie inside one, in text that is not UTF-8 too.
fn character_start(text: &[u8], at: usize) -> usize {
    match text.get(at..) {
        Some(rest) => at + rest.iter().take(3).take_while(|&&byte| byte & 0xc0 == 0x80).count(),
        None => text.len(),
    }
}
