//! Which tokens a grammar lets come next (docs/constraints.md). The grammars are llguidance's (Lark, regex, JSON
//! schema); here they get limits, errors, and a vocabulary whose end is any of several tokens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, panic_utils};
use rayon::prelude::*;
use serde_json::Value;

/// Most bytes of a JSON schema, and of all choices together.
pub const MAX_SCHEMA: usize = 1 << 20;
/// Most members of one object of a schema: the time to compile optional properties grows with their number's square.
const MAX_MEMBERS: usize = 1 << 10;
/// Most members of all objects of a schema.
const MAX_ALL_MEMBERS: usize = 10_000;
/// Most bytes of a regular expression or a Lark grammar.
pub const MAX_GRAMMAR: usize = 1 << 16;
/// A longer token is never allowed: the trie's nodes count their depth in ten bits.
const LONGEST_TOKEN: usize = 1000;
/// The trie's nodes have 24 bits for a token, of which the last value means none.
const MOST_TOKENS: usize = (1 << 24) - 2;
/// A byte that is in no UTF-8 text: what begins with it is a special token.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
/// The compiler follows rules into each other: a grammar within the limits nests deeper than a thread's usual stack.
const STACK: usize = 1 << 28;
/// Longest part of llguidance's own words in an error.
const LONGEST_MESSAGE: usize = 400;

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

    fn compilable(&self) -> Result<TopLevelGrammar, ConstraintError> {
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

/// The tokens of a tokenizer in the form that grammars are matched against.
pub struct Vocabulary {
    factory: ParserFactory,
    size: usize,
    end_ids: Arc<[u32]>,
}

impl Vocabulary {
    /// From the bytes of each token, `None` where an id has none, and the ids that end a text. `special` are tokens that
    /// stand for no text: a Lark grammar can name them (`<|name|>`), nothing else matches them.
    ///
    /// # Errors
    /// Too many tokens, or an id that is none of them.
    pub fn new(tokens: Vec<Option<Vec<u8>>>, special: &[u32], end_ids: &[u32]) -> Result<Self, ConstraintError> {
        let wrong = |message: String| ConstraintError::Vocabulary { message };
        let size = tokens.len();
        if size == 0 || size > MOST_TOKENS {
            return Err(wrong(format!("has {size} tokens: must be 1 to {MOST_TOKENS}")));
        }
        if let Some(id) = special.iter().chain(end_ids).find(|&&id| id as usize >= size) {
            return Err(wrong(format!("id {id}: must be 0 to {}", size - 1)));
        }
        let mut words: Vec<Vec<u8>> = tokens.into_iter().map(|token| usable(token.unwrap_or_default())).collect();
        for &id in special.iter().chain(end_ids) {
            let word = &mut words[id as usize];
            if word.first().is_some_and(|&byte| byte != SPECIAL) {
                word.insert(0, SPECIAL);
            }
        }
        // One more token stands for the end, whichever of `end_ids` will be written.
        words.push(b"\xff<wordkiln-end>".to_vec());
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, size as u32), &words);
        let environment: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| wrong(brief(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // About 100 MB where a grammar makes use of all.
            max_lexer_states: 50_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory, size, end_ids: end_ids.into() })
    }

    /// Words of a mask row.
    #[must_use]
    pub fn words(&self) -> usize {
        self.size.div_ceil(32)
    }

    /// A matcher at the beginning of a text.
    ///
    /// # Errors
    /// The grammar is wrong, or exceeds a limit of size, depth or compile time.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, ConstraintError> {
        let wrong = |message: &str| ConstraintError::Grammar { name: grammar.name(), message: brief(message) };
        let source = grammar.compilable()?;
        let compile = || {
            let parser = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| self.factory.create_parser(source)));
            llguidance::Matcher::new(parser)
        };
        let inner = thread::scope(|scope| {
            let worker = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, compile);
            worker.map_err(|error| wrong(&error.to_string()))?.join().map_err(|_| wrong("internal error: a panic"))
        })?;
        match inner.get_error() {
            Some(message) => Err(wrong(&message)),
            None => Ok(Matcher { inner, size: self.size, end_ids: Arc::clone(&self.end_ids), is_ended: false }),
        }
    }
}

/// Where a text stands in its grammar. A clone goes its own way from there, and shares what has been computed.
#[derive(Clone)]
pub struct Matcher {
    inner: llguidance::Matcher,
    size: usize,
    end_ids: Arc<[u32]>,
    is_ended: bool,
}

impl Matcher {
    /// A copy that shares nothing: it can be used at the same time as this one without waiting for it.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { inner: self.inner.deep_clone(), end_ids: Arc::clone(&self.end_ids), ..*self }
    }

    /// Sets bit i % 32 of word i / 32 of `mask` where token i may come, and clears the others. Where the text may end,
    /// all end ids may come; where it must, nothing else.
    ///
    /// # Errors
    /// `mask` has another length; a limit is exceeded.
    pub fn fill(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        let expected = self.size.div_ceil(32);
        if mask.len() != expected {
            return Err(ConstraintError::Shape { given: mask.len(), expected });
        }
        mask.fill(0);
        let may_end = if self.is_finished() {
            true
        } else {
            let allowed = self.inner.compute_mask().map_err(|error| limit(&error.to_string()))?;
            mask.iter_mut().zip(allowed.as_slice()).for_each(|(word, &bits)| *word = bits);
            if !self.size.is_multiple_of(32) {
                mask[expected - 1] &= (1 << (self.size % 32)) - 1;
            }
            allowed.is_allowed(self.size as u32)
        };
        for &id in self.end_ids.iter() {
            let bit = 1 << (id % 32);
            let word = &mut mask[id as usize / 32];
            *word = if may_end { *word | bit } else { *word & !bit };
        }
        Ok(())
    }

    /// Goes on by a token that has been written.
    ///
    /// # Errors
    /// The grammar does not let it come (then nothing has changed), or a limit is exceeded.
    pub fn commit(&mut self, id: u32) -> Result<(), ConstraintError> {
        if self.end_ids.contains(&id) {
            self.is_ended = self.is_ended || self.is_accepting()?;
            return if self.is_ended { Ok(()) } else { Err(ConstraintError::Token { id }) };
        }
        if self.is_finished() || id as usize >= self.size {
            return Err(ConstraintError::Token { id });
        }
        match self.inner.try_consume_tokens(&[id]).map_err(|error| limit(&error.to_string()))? {
            1 => Ok(()),
            _ => Err(ConstraintError::Token { id }),
        }
    }

    /// Whether the text may end here.
    ///
    /// # Errors
    /// A limit is exceeded.
    pub fn is_accepting(&mut self) -> Result<bool, ConstraintError> {
        Ok(self.is_finished() || self.inner.is_accepting().map_err(|error| limit(&error.to_string()))?)
    }

    /// Whether nothing but an end may come: the text is whole.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_ended || (self.inner.stop_reason().is_ok() && self.inner.is_stopped())
    }
}

/// Fills a row of `masks` [matchers, words] for each matcher, in parallel. The same matcher may stand in several rows.
///
/// # Errors
/// As [`Matcher::fill`], for one such row.
pub fn fill_masks(matchers: &[&Mutex<Matcher>], masks: &mut [u32]) -> Result<(), ConstraintError> {
    let words = matchers.first().map_or(1, |matcher| lock(matcher).size.div_ceil(32));
    let expected = matchers.len() * words;
    if masks.len() != expected {
        return Err(ConstraintError::Shape { given: masks.len(), expected });
    }
    matchers.par_iter().zip(masks.par_chunks_mut(words)).try_for_each(|(matcher, mask)| lock(matcher).fill(mask))
}

fn lock(matcher: &Mutex<Matcher>) -> MutexGuard<'_, Matcher> {
    matcher.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A token's bytes, or none where grammars could not match it, or take it for a special token.
fn usable(token: Vec<u8>) -> Vec<u8> {
    if token.len() > LONGEST_TOKEN || token.first() == Some(&SPECIAL) { Vec::new() } else { token }
}

fn limit(message: &str) -> ConstraintError {
    ConstraintError::Limit { message: brief(message) }
}

/// The first lines of a message, without what is meant for llguidance's own developers.
fn brief(message: &str) -> String {
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
