//! Text to ids to text: byte-level BPE. Pure Rust, knows no Python.

mod cache;
mod cancel;
mod error;
mod formats;
mod merges;
mod pretokenize;
mod special;
mod stream;
mod tokenizer;
mod train;
mod unicode;
mod vocabulary;

pub use cancel::Cancel;
pub use error::Error;
pub use formats::{from_json, from_tiktoken, to_json, to_tiktoken};
pub use pretokenize::{Pattern, pretokenize};
pub use special::{Allowed, SpecialToken};
pub use stream::{DecodeStream, lossy_utf8};
pub use tokenizer::{Encoded, Id, Tokenizer};
pub use train::{Corpus, LEAST_MEMORY, Progress, Ties, TrainOptions, Trainer};
pub use vocabulary::MAX_VOCABULARY;
