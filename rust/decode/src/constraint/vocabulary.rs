//! A tokenizer's tokens as grammars are matched against them, and the way from a grammar to a matcher.

use std::sync::Arc;
use std::thread;

use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, panic_utils};

use super::error::{ConstraintError, brief};
use super::grammar::Grammar;
use super::matcher::Matcher;

/// A longer token is never allowed: the trie's nodes count their depth in ten bits.
const LONGEST_TOKEN: usize = 1000;
/// The trie's nodes have 24 bits for a token, of which the last value means none.
const MOST_TOKENS: usize = (1 << 24) - 2;
/// A byte that is in no UTF-8 text: what begins with it is a special token.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
/// The compiler follows rules into each other: a grammar within the limits nests deeper than a thread's usual stack.
const STACK: usize = 1 << 28;

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
            None => Ok(Matcher::new(inner, self.size, Arc::clone(&self.end_ids))),
        }
    }
}

/// A token's bytes, or none where grammars could not match it, or take it for a special token.
fn usable(token: Vec<u8>) -> Vec<u8> {
    if token.len() > LONGEST_TOKEN || token.first() == Some(&SPECIAL) { Vec::new() } else { token }
}
