//! Which tokens a grammar lets come next (docs/constraints.md). The grammars are llguidance's (Lark, regex, JSON
//! schema); here they get limits, errors, and a vocabulary whose end is any of several tokens.

mod error;
mod grammar;
mod matcher;
mod vocabulary;

pub use error::ConstraintError;
pub use grammar::{Grammar, MAX_GRAMMAR, MAX_SCHEMA};
pub use matcher::{Matcher, fill_masks};
pub use vocabulary::Vocabulary;
