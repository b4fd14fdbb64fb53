//! What a constraint refuses, and in which words.

use std::fmt;

/// Longest part of llguidance's own words in an error.
const LONGEST_MESSAGE: usize = 400;

/// What a constraint refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConstraintError {
    /// A vocabulary that cannot be used.
    Vocabulary {
        /// What is wrong with it.
        message: String,
    },
    /// A grammar that cannot be understood, or exceeds a limit.
    Grammar {
        /// Which argument it is.
        name: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A token that the grammar does not let come.
    Token {
        /// The token.
        id: u32,
    },
    /// A text at which matching exceeds a limit of time or memory.
    Limit {
        /// What was exceeded.
        message: String,
    },
    /// Masks of another shape than the matchers need.
    Shape {
        /// What was given, in words.
        given: usize,
        /// What is needed.
        expected: usize,
    },
}

impl fmt::Display for ConstraintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConstraintError::Vocabulary { message } => write!(f, "tokenizer: {message}"),
            ConstraintError::Grammar { name, message } => write!(f, "{name}: {message}"),
            ConstraintError::Token { id } => write!(f, "token {id}: the constraint does not let it come here"),
            ConstraintError::Limit { message } => write!(f, "constraint: {message}"),
            ConstraintError::Shape { given, expected } => {
                write!(f, "masks: {given} words given: the matchers need {expected}")
            }
        }
    }
}

impl std::error::Error for ConstraintError {}

/// A limit that was exceeded, in llguidance's words.
pub fn limit(message: &str) -> ConstraintError {
    ConstraintError::Limit { message: brief(message) }
}

/// The first lines of a message, without what is meant for llguidance's own developers.
pub fn brief(message: &str) -> String {
    let message = message.split("<non-verbose/>").next().unwrap_or(message);
    let message = message.split("<backtrace>").next().unwrap_or(message).trim();
    if message.starts_with("panic") {
        return "more than llguidance can take: it must be smaller".into();
    }
    match message.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}
