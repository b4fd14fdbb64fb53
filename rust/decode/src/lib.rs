//! Logits to ids: random numbers, the batched sampler, beam search, constraints. Pure Rust, knows no Python.

pub mod beam;
mod candidates;
pub mod constraint;
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
mod share;
mod stages;

pub use beam::{BeamError, BeamParams, BeamSearch, EarlyStopping, Finish, Hypothesis};
pub use error::{Fault, SamplerError};
pub use logits::Logits;
pub use params::SamplingParams;
pub use row::Choice;
pub use sampler::{Batch, Sampler};
