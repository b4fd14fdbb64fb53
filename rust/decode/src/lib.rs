//! Logits to ids: random numbers and the batched sampler. Pure Rust, knows no Python.

mod candidates;
mod edits;
mod error;
mod exp;
mod history;
mod kernels;
mod list;
mod logits;
mod params;
pub mod rng;
mod row;
mod sampler;
mod stages;

pub use error::{Fault, SamplerError};
pub use logits::Logits;
pub use params::SamplingParams;
pub use row::Choice;
pub use sampler::{Batch, Sampler};
