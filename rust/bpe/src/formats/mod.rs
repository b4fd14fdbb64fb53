//! Files that other tokenizers read and write.

mod json;
mod pre_tokenizer;
mod tiktoken;

pub use json::{from_json, to_json};
pub use pre_tokenizer::pre_tokenizer_json;
pub use tiktoken::{from_tiktoken, to_tiktoken};
