//! What can be wrong with settings and with logits.

use std::fmt;

/// Why one row could not be sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The logit of token `id` is not a number.
    Nan {
        /// The first such token.
        id: usize,
    },
    /// The logit of token `id` is plus infinity.
    Infinite {
        /// The first such token.
        id: usize,
    },
    /// Every logit is minus infinity: no token is left to choose from.
    Empty,
    /// The row's mask and settings together leave no token.
    Banned,
    /// The row's mask does not allow the token that its settings force.
    Forced {
        /// That token.
        id: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Nan { id } => write!(f, "the logit of token {id} is NaN"),
            Fault::Infinite { id } => write!(f, "the logit of token {id} is +inf"),
            Fault::Empty => write!(f, "every logit is -inf, no token is left to choose from"),
            Fault::Banned => write!(f, "its mask and its banned tokens leave no token with a logit above -inf"),
            Fault::Forced { id } => write!(f, "its mask does not allow the forced token {id}"),
        }
    }
}

/// What [`Sampler`](crate::Sampler) refuses.
#[derive(Clone, Debug, PartialEq)]
pub enum SamplerError {
    /// A setting of one row is out of its range.
    Parameter {
        /// The row.
        row: usize,
        /// The setting's name.
        field: &'static str,
        /// What was given.
        value: f64,
        /// What is allowed.
        limit: &'static str,
    },
    /// A list of one row names a token that does not exist.
    Id {
        /// The row.
        row: usize,
        /// The list's name.
        field: &'static str,
        /// The place in the list.
        index: usize,
        /// What stands there.
        id: u64,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// The logits of one row cannot be sampled.
    Logits {
        /// The first such row.
        row: usize,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The vocabulary is empty, or its ids do not fit 31 bits.
    VocabSize {
        /// What was given.
        vocab_size: usize,
    },
    /// Logits or results have another shape than the sampler.
    Shape {
        /// What was given, in elements.
        given: usize,
        /// What the sampler's rows need.
        expected: usize,
    },
    /// A row was selected that the sampler does not have.
    NoSuchRow {
        /// The row asked for.
        row: usize,
        /// How many rows there are.
        rows: usize,
    },
}

impl fmt::Display for SamplerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SamplerError::Parameter { row, field, value, limit } => {
                write!(f, "{field}={value} of row {row}: must be {limit}")
            }
            SamplerError::Id { row, field, index, id, vocab_size } => {
                write!(f, "{field}[{index}]={id} of row {row}: must be below the vocabulary's size, {vocab_size}")
            }
            SamplerError::Logits { row, fault } => write!(f, "logits of row {row}: {fault}"),
            SamplerError::VocabSize { vocab_size } => {
                write!(f, "vocab_size={vocab_size}: must be 1 to {}", i32::MAX)
            }
            SamplerError::Shape { given, expected } => {
                write!(f, "{given} elements given: the sampler's rows need {expected}")
            }
            SamplerError::NoSuchRow { row, rows } => write!(f, "row {row}: the sampler has {rows} rows"),
        }
    }
}

impl std::error::Error for SamplerError {}
