//! Training: count the distinct pre-tokens, then merge the most frequent pair until the vocabulary is full.

mod count;
mod merge;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use crate::merges::Merge;
use crate::special::{Flags, SpecialToken};
use crate::tokenizer::{Parts, Tokenizer};
use crate::vocabulary::{BYTE_ORDER, ByteSpelling, MAX_VOCABULARY};
use crate::{Cancel, Error, Pattern};
use count::{PieceCounts, count_texts};

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Ids in all: 256 bytes, the merges and the special tokens.
    pub vocab_size: usize,
    /// How text is cut into pre-tokens.
    pub pattern: Pattern,
    /// Special tokens; their ids come last.
    pub special_tokens: Vec<String>,
    /// A pair that is seen less often is not merged; at least 1.
    pub min_frequency: u64,
    /// Bytes of memory that training may take, besides the text itself.
    pub max_memory: Option<u64>,
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
    counts: PieceCounts,
}

/// Text counted between two looks at the memory.
const ROUND: usize = 32 << 20;
const LEAST_ROUND: usize = 1 << 20;

impl Trainer {
    /// Checks the options.
    pub fn new(options: TrainOptions) -> Result<Self, Error> {
        let least = 256 + options.special_tokens.len();
        if options.vocab_size < least {
            let (size, specials) = (options.vocab_size, options.special_tokens.len());
            return Err(Error::Argument(format!(
                "vocab_size={size}: must be at least {least} (256 bytes and {specials} special tokens)"
            )));
        }
        if options.vocab_size > MAX_VOCABULARY {
            return Err(Error::Argument(format!(
                "vocab_size={}: must be at most {MAX_VOCABULARY}",
                options.vocab_size
            )));
        }
        if options.min_frequency == 0 {
            return Err(Error::Argument("min_frequency=0: must be at least 1".into()));
        }
        let spelling = ByteSpelling::new();
        for content in &options.special_tokens {
            // tokenizer.json keeps both kinds in one table, where they would be one entry.
            if spelling.read(content).is_some_and(|bytes| bytes.len() == 1) {
                return Err(Error::Argument(format!("special_tokens: {content:?} is how a single byte is spelled")));
            }
        }
        Ok(Self { options, counts: PieceCounts::default() })
    }

    /// Counts the pre-tokens of texts.
    pub fn feed(&mut self, texts: &[&[u8]], cancel: &Cancel, progress: &Progress) -> Result<(), Error> {
        let limit = self.options.max_memory;
        let round = limit.map_or(ROUND, |limit| (limit as usize / 16).clamp(LEAST_ROUND, ROUND));
        let pattern = self.options.pattern.clone();
        count_texts(texts, &pattern, round, cancel, |counted, bytes| {
            self.counts.add(counted);
            progress.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.check_memory()
        })
    }

    /// Counts the pre-tokens of a file: one text, read through a memory map.
    pub fn feed_file(&mut self, path: &Path, cancel: &Cancel, progress: &Progress) -> Result<(), Error> {
        let error = |error: std::io::Error| Error::Path { path: path.into(), reason: error.to_string() };
        let file = File::open(path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            return Err(Error::Path { path: path.into(), reason: "not a regular file".into() });
        }
        // SAFETY: the map is only read. A file that another process shortens meanwhile would end this one by a
        // signal, as it would any reader of a memory map; training says so in its documentation.
        let map = unsafe { Mmap::map(&file) }.map_err(error)?;
        self.feed(&[&map], cancel, progress)
    }

    fn check_memory(&self) -> Result<(), Error> {
        let needed = self.counts.memory() + merge::memory(&self.counts);
        match self.options.max_memory {
            Some(limit) if needed > limit => {
                Err(Error::Memory { limit, needed, distinct: self.counts.total_bytes() as u64 })
            }
            _ => Ok(()),
        }
    }

    /// Merges until the vocabulary is full.
    pub fn finish(self, cancel: &Cancel, progress: &Progress) -> Result<Tokenizer, Error> {
        let Self { options, counts } = self;
        if progress.bytes() == 0 {
            return Err(Error::Argument("source: holds no text".into()));
        }
        let wanted = options.vocab_size - 256 - options.special_tokens.len();
        let pairs = merge::train(counts, wanted, options.min_frequency, cancel, &progress.merges)?;
        if pairs.len() < wanted {
            return Err(Error::VocabularyNotReached {
                wanted: options.vocab_size,
                reached: options.vocab_size - wanted + pairs.len(),
                merges: pairs.len(),
                specials: options.special_tokens.len(),
                min_frequency: options.min_frequency,
            });
        }
        Tokenizer::new(parts(&options, &pairs))
    }
}

fn parts(options: &TrainOptions, pairs: &[(u32, u32)]) -> Parts {
    let mut tokens: Vec<Vec<u8>> = BYTE_ORDER.iter().map(|&byte| vec![byte]).collect();
    let mut merges = Vec::with_capacity(pairs.len());
    for &(left, right) in pairs {
        merges.push(Merge { left, right, result: tokens.len() as u32 });
        tokens.push([&tokens[left as usize][..], &tokens[right as usize][..]].concat());
    }
    let first = tokens.len() as u32;
    let specials = (first..)
        .zip(&options.special_tokens)
        .map(|(id, content)| SpecialToken { content: content.clone(), id, special: true, flags: Flags::default() })
        .collect();
    let pattern = options.pattern.clone();
    Parts { pattern, tokens, merges, specials, whole_pieces: false, nfc: false, post_processor: None }
}
