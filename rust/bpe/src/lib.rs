//! Text to ids to text: byte-level BPE. Pure Rust, knows no Python.

mod batch;
mod cache;
mod cancel;
mod encode;
mod error;
mod formats;
mod front;
mod lines;
mod longest;
mod merges;
mod missing;
mod offsets;
mod pretokenize;
mod seams;
mod special;
mod stream;
mod tokenizer;
mod train;
mod trie;
mod unicode;
mod vocabulary;

pub use batch::Encoded;
pub use cancel::Cancel;
pub use encode::Id;
pub use error::Error;
pub use formats::{from_json, from_tiktoken, pre_tokenizer_json, to_json, to_tiktoken};
pub use merges::Merge;
pub use offsets::{WithOffsets, to_characters};
pub use pretokenize::{BACKTRACK_LIMIT, Cutter, Pattern, pretokenize};
pub use special::{Allowed, Flags, SpecialToken};
pub use stream::{DecodeStream, lossy_utf8};
pub use tokenizer::Tokenizer;
pub use train::{Corpus, LEAST_MEMORY, Progress, Ties, TrainOptions, Trainer};
pub use vocabulary::MAX_VOCABULARY;
