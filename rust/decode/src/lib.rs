//! Logits to ids: random numbers and the batched sampler. Pure Rust, knows no Python.

mod candidates;
mod error;
mod exp;
pub mod rng;
mod row;
mod sampler;
mod stages;

pub use error::{Fault, SamplerError};
pub use row::{Choice, SamplingParams};
pub use sampler::Sampler;
