//! Logits to ids: random numbers, the batched sampler, beam search, constraints. Pure Rust, knows no Python.

pub mod beam;
mod candidates;
pub mod constraint;
mod error;
mod exp;
pub mod rng;
mod row;
mod sampler;
mod stages;

pub use beam::{BeamError, BeamParams, BeamSearch, EarlyStopping, Hypothesis};
pub use error::{Fault, SamplerError};
pub use row::{Choice, SamplingParams};
pub use sampler::Sampler;
