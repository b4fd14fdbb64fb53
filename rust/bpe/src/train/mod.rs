//! Training: count the distinct pre-tokens, then merge the most frequent pair until the vocabulary is full.

mod count;
mod hash;
mod merge;
mod neighbours;
mod pairs;
mod parts;
mod start;
mod table;
mod text;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use crate::special::Specials;
use crate::tokenizer::Tokenizer;
use crate::vocabulary::{ByteSpelling, MAX_VOCABULARY};
use crate::{Allowed, Cancel, Error, Pattern};
use count::PieceCounts;
use merge::Wanted;
use parts::{Part, Parts};
use start::Start;
use text::{Id, NARROW, Text};

pub use parts::Corpus;
pub use start::Ties;

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Ids in all: those of the base (256 bytes without one), the merges and the new special tokens.
    pub vocab_size: usize,
    /// How text is cut into pre-tokens; the base's if there is one.
    pub pattern: Pattern,
    /// Special tokens; the ids of those that the base does not have come last. Text is cut where they stand.
    pub special_tokens: Vec<String>,
    /// A pair that is seen less often is not merged; at least 1.
    pub min_frequency: u64,
    /// Bytes of memory that training may take, besides the text itself.
    pub max_memory: Option<u64>,
    /// Which of equally frequent pairs comes first.
    pub ties: Ties,
    /// Characters that get a token whatever the text holds.
    pub initial_alphabet: Vec<char>,
    /// The tokenizer to start from.
    pub base: Option<Arc<Tokenizer>>,
}

/// How far training is, for another thread to look at.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    merges: AtomicU64,
}

impl Progress {
    /// Bytes of text counted so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Merges made so far.
    pub fn merges(&self) -> u64 {
        self.merges.load(Ordering::Relaxed)
    }
}

/// Takes texts, then trains on all of them.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    start: Start,
    specials: Specials,
    counts: PieceCounts,
    /// New tokens to learn.
    tokens: usize,
}

/// The least that `max_memory` may be: buffers of a fixed size have to fit.
pub const LEAST_MEMORY: u64 = 64 << 20;
/// Text counted between two looks at the memory.
const ROUND: usize = 32 << 20;
const LEAST_ROUND: usize = 1 << 20;
/// Files mapped at a time.
const FILES: usize = 64;

impl Trainer {
    /// Checks the options.
    pub fn new(options: TrainOptions) -> Result<Self, Error> {
        if options.vocab_size > MAX_VOCABULARY {
            return Err(Error::Argument(format!(
                "vocab_size={}: must be at most {MAX_VOCABULARY}",
                options.vocab_size
            )));
        }
        if options.min_frequency == 0 {
            return Err(Error::Argument("min_frequency=0: must be at least 1".into()));
        }
        if let Some(limit) = options.max_memory.filter(|&limit| limit < LEAST_MEMORY) {
            return Err(Error::Argument(format!("max_memory={limit}: must be at least {LEAST_MEMORY} bytes (64MiB)")));
        }
        let spelling = ByteSpelling::new();
        for content in &options.special_tokens {
            // tokenizer.json keeps both kinds in one table, where they would be one entry.
            if spelling.read(content).is_some_and(|bytes| bytes.len() == 1) {
                return Err(Error::Argument(format!("special_tokens: {content:?} is how a single byte is spelled")));
            }
        }
        let start = Start::new(&options)?;
        let specials = Specials::new(start.all_specials(&options))?;
        let new_specials = start.new_specials(&options).count();
        let least = start.size() + new_specials;
        let Some(tokens) = options.vocab_size.checked_sub(least) else {
            let (size, known) = (options.vocab_size, start.size());
            let known = if start.base().is_none() { "256 bytes".into() } else { format!("{known} ids to start from") };
            return Err(Error::Argument(format!(
                "vocab_size={size}: must be at least {least} ({known} and {new_specials} special tokens)"
            )));
        };
        Ok(Self { options, start, specials, counts: PieceCounts::new(), tokens })
    }

    /// New tokens to learn.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Counts the pre-tokens of texts.
    pub fn feed(&mut self, texts: &[Corpus<'_>], cancel: &Cancel, progress: &Progress) -> Result<(), Error> {
        self.count(texts.iter().map(|&text| (text, None)), cancel, progress)
    }

    /// Counts the pre-tokens of files: a text each, read through a memory map.
    pub fn feed_files(
        &mut self,
        paths: &[PathBuf],
        weight: u64,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<(), Error> {
        for paths in paths.chunks(FILES) {
            let maps: Vec<Mmap> = paths.iter().map(|path| map_file(path)).collect::<Result<_, _>>()?;
            let texts = maps.iter().map(|map| (Corpus { text: map, weight }, Some(map)));
            self.count(texts, cancel, progress)?;
        }
        Ok(())
    }

    /// Rounds of parts; how a text is cut into rounds depends on no more than it and `max_memory`.
    fn count<'a>(
        &mut self,
        texts: impl Iterator<Item = (Corpus<'a>, Option<&'a Mmap>)>,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<(), Error> {
        let Self { options, specials, counts, .. } = self;
        let rules = specials.rules(&Allowed::All, &Allowed::Some(Vec::new()))?;
        let round = options.max_memory.map_or(ROUND, |limit| (limit as usize / 128).clamp(LEAST_ROUND, ROUND));
        let parts = texts.flat_map(|(text, map)| Parts::new(text, map, &options.pattern, rules.parsed()));
        let mut taken: Vec<Part<'_>> = Vec::new();
        let mut bytes = 0;
        let mut finish_round = |taken: &mut Vec<Part<'_>>, bytes: &mut usize| {
            counts.count(taken, &options.pattern, cancel)?;
            progress.bytes.fetch_add(std::mem::take(bytes) as u64, Ordering::Relaxed);
            taken.clear();
            match options.max_memory {
                Some(limit) => counts.reduce(limit / 20 * 9, cancel),
                None => Ok(()),
            }
        };
        for part in parts {
            bytes += part.end - part.start;
            taken.push(part);
            if bytes >= round {
                finish_round(&mut taken, &mut bytes)?;
            }
        }
        finish_round(&mut taken, &mut bytes)
    }

    /// Merges until the vocabulary is full.
    pub fn finish(self, cancel: &Cancel, progress: &Progress) -> Result<Tokenizer, Error> {
        if progress.bytes() == 0 {
            return Err(Error::Argument("source: holds no text".into()));
        }
        let merges = self.start.merges_for(self.tokens);
        let found = if self.start.size() + merges <= NARROW {
            merge_all::<u16>(&self.options, &self.start, self.counts, merges, cancel, progress)?
        } else {
            merge_all::<u32>(&self.options, &self.start, self.counts, merges, cancel, progress)?
        };
        let (parts, learned) = self.start.finish(&self.options, &found, self.tokens);
        if learned < self.tokens {
            return Err(Error::VocabularyNotReached {
                wanted: self.options.vocab_size,
                reached: self.options.vocab_size - self.tokens + learned,
                merges: learned,
                specials: self.options.special_tokens.len(),
                min_frequency: self.options.min_frequency,
            });
        }
        Tokenizer::new(parts)
    }
}

fn merge_all<I: Id>(
    options: &TrainOptions,
    start: &Start,
    counts: PieceCounts,
    merges: usize,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Vec<(u32, u32)>, Error> {
    if merges == 0 {
        return Ok(Vec::new());
    }
    let text = Text::<I>::new(counts, start, cancel)?;
    // What the text leaves, half of it for places (4 bytes) and half for pairs (24 bytes, up to three quarters empty).
    // Lists of new places may grow to the size of the text before a new stage starts.
    let taken = text.ids.len() * (size_of::<I>() + 4);
    let share = options.max_memory.map_or(usize::MAX, |limit| (limit as usize / 4 * 3).saturating_sub(taken) / 2);
    let wanted = Wanted {
        merges,
        min_frequency: options.min_frequency,
        first_id: start.size() as u32,
        places: (share / 4).min((text.ids.len() / 2).max(1 << 20)),
        pairs: share / 96,
        max_memory: options.max_memory.unwrap_or(u64::MAX),
    };
    merge::train(text, &wanted, cancel, &progress.merges)
}

fn map_file(path: &Path) -> Result<Mmap, Error> {
    let error = |error: std::io::Error| Error::Path { path: path.into(), reason: error.to_string() };
    let file = File::open(path).map_err(error)?;
    if !file.metadata().map_err(error)?.is_file() {
        return Err(Error::Path { path: path.into(), reason: "not a regular file".into() });
    }
    // SAFETY: the map is only read. A file that another process shortens meanwhile would end this one by a signal, as
    // it would any reader of a memory map; training says so in its documentation.
    unsafe { Mmap::map(&file) }.map_err(error)
}
