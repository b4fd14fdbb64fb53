//! Grammars: what they are, and their limits.

use llguidance::api::TopLevelGrammar;
use serde_json::Value;

use super::error::{ConstraintError, brief};

/// Most bytes of a JSON schema, and of all choices together.
pub const MAX_SCHEMA: usize = 1 << 20;
/// Most members of one object of a schema: the time to compile optional properties grows with their number's square.
const MAX_MEMBERS: usize = 1 << 10;
/// Most members of all objects of a schema.
const MAX_ALL_MEMBERS: usize = 10_000;
/// Most bytes of a regular expression or a Lark grammar.
pub const MAX_GRAMMAR: usize = 1 << 16;

/// What text must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// JSON that a schema, given as JSON text, accepts.
    Schema(String),
    /// A regular expression, from beginning to end.
    Regex(String),
    /// One of these texts.
    Choices(Vec<String>),
    /// A grammar in llguidance's kind of Lark.
    Lark(String),
}

impl Grammar {
    /// The argument's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Grammar::Schema(_) => "schema",
            Grammar::Regex(_) => "regex",
            Grammar::Choices(_) => "choices",
            Grammar::Lark(_) => "grammar",
        }
    }

    /// As llguidance takes it.
    pub(super) fn compilable(&self) -> Result<TopLevelGrammar, ConstraintError> {
        let wrong = |message: String| ConstraintError::Grammar { name: self.name(), message };
        let (bytes, limit) = match self {
            Grammar::Schema(text) => (text.len(), MAX_SCHEMA),
            Grammar::Choices(texts) => (texts.iter().map(String::len).sum(), MAX_SCHEMA),
            Grammar::Regex(text) | Grammar::Lark(text) => (text.len(), MAX_GRAMMAR),
        };
        if bytes > limit {
            return Err(wrong(format!("has {bytes} bytes: must be at most {limit}")));
        }
        match self {
            Grammar::Schema(text) => {
                let schema: Value = serde_json::from_str(text).map_err(|error| wrong(brief(&error.to_string())))?;
                check_members(&schema, &mut 0).map_err(wrong)?;
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
            Grammar::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Grammar::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            Grammar::Choices(texts) => {
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    return Err(wrong("must be one or more non-empty strings".into()));
                }
                let quoted = texts.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
                let quoted = quoted.map_err(|error| wrong(error.to_string()))?;
                Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", quoted.join(" | "))))
            }
        }
    }
}

/// Depth is no danger: JSON that was parsed has at most 128 levels.
fn check_members(schema: &Value, total: &mut usize) -> Result<(), String> {
    match schema {
        Value::Object(members) => {
            *total += members.len();
            if members.len() > MAX_MEMBERS {
                return Err(format!("has an object of {} members: must be at most {MAX_MEMBERS}", members.len()));
            }
            if *total > MAX_ALL_MEMBERS {
                return Err(format!("its objects have more than {MAX_ALL_MEMBERS} members together"));
            }
            members.values().try_for_each(|member| check_members(member, total))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_members(item, total)),
        _ => Ok(()),
    }
}
