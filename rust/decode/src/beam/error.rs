//! What beam search refuses.

use std::fmt;

use crate::error::Fault;

/// What [`BeamSearch`](crate::BeamSearch) refuses.
#[derive(Clone, Debug, PartialEq)]
pub enum BeamError {
    /// A setting is out of its range.
    Parameter {
        /// The setting's name.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        limit: String,
    },
    /// The logits of one row cannot be searched.
    Logits {
        /// The first such row.
        row: usize,
        /// The prompt that it continues.
        prompt: usize,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Bans, masks and -inf leave a prompt nothing to go on with, and no text of it has ended.
    NoToken {
        /// The prompt.
        prompt: usize,
        /// How many tokens have been written.
        written: usize,
    },
    /// Logits or masks have another shape than the search's rows.
    Shape {
        /// "logits" or "masks".
        field: &'static str,
        /// What was given, in elements.
        given: usize,
        /// What the rows need.
        expected: usize,
    },
}

impl fmt::Display for BeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BeamError::Parameter { field, value, limit } => write!(f, "{field}={value}: must be {limit}"),
            BeamError::Logits { row, prompt, fault } => write!(f, "logits of row {row} (prompt {prompt}): {fault}"),
            BeamError::NoToken { prompt, written } => {
                write!(f, "prompt {prompt}: after {written} tokens none is left that may come next")
            }
            BeamError::Shape { field, given, expected } => {
                write!(f, "{field}: {given} elements given: the search's rows need {expected}")
            }
        }
    }
}

impl std::error::Error for BeamError {}
