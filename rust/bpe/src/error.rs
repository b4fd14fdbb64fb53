//! What can go wrong; the message names the field, the value and the limit.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its range.
    #[error("{0}")]
    Argument(String),
    /// No pattern has that name.
    #[error("pattern={0:?}: must be one of gpt2, cl100k, o200k, llama3, qwen2, whitespace, bytes, none")]
    UnknownPattern(String),
    /// Training ran out of pairs.
    #[error(
        "vocab_size={wanted} cannot be reached: {reached} tokens (256 bytes, {merges} merges, {specials} special tokens) \
         are all that pairs seen at least min_frequency={min_frequency} times give"
    )]
    VocabularyNotReached {
        /// The size asked for.
        wanted: usize,
        /// The size that can be had.
        reached: usize,
        /// Its merges.
        merges: usize,
        /// Its special tokens.
        specials: usize,
        /// The limit that pairs had to pass.
        min_frequency: u64,
    },
    /// Training would outgrow its promise.
    #[error(
        "max_memory={limit} bytes is too little: {needed} bytes are needed to count pairs in {distinct} bytes of distinct pre-tokens"
    )]
    Memory {
        /// The promise.
        limit: u64,
        /// What it would take.
        needed: u64,
        /// Bytes in all distinct pre-tokens together.
        distinct: u64,
    },
    /// A special token stands in text where it is not allowed.
    #[error(
        "the text holds the special token {0:?}: name it in allowed_special to encode it as one id, or pass \
         disallowed_special=() to encode it as ordinary text"
    )]
    SpecialInText(String),
    /// No token has that id.
    #[error("id {id}: the vocabulary has {size} ids and none of them is it")]
    UnknownId {
        /// The id.
        id: u64,
        /// Number of ids.
        size: usize,
    },
    /// A pre-token is longer than positions can count.
    #[error("a pre-token of {0} bytes: the limit is 4294967295 bytes")]
    PieceTooLong(usize),
    /// A file does not hold what it should.
    #[error("{0}")]
    Format(String),
    /// A file cannot be read.
    #[error("{path}: {reason}")]
    Path {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The work was told to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::Format(message.into())
    }
}
