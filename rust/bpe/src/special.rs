//! Special tokens: text that stands for one id, and only where the caller allows it.

use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::Error;

/// A special token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its text; not empty.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// False for tokens that tokenizer.json calls added but not special: ordinary text may hold them.
    pub special: bool,
    /// How else it is matched.
    pub flags: Flags,
}

/// How tokenizer.json wants an added token to be matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Not beside a letter, a number or `_`.
    pub single_word: bool,
    /// With the white space before it.
    pub lstrip: bool,
    /// With the white space after it.
    pub rstrip: bool,
    /// In normalized text.
    pub normalized: bool,
}

impl Flags {
    /// Matched as it stands.
    pub fn are_plain(self) -> bool {
        self == Self::default()
    }
}

/// Longest text of one, far above any real one: searching for all at once takes many times their length in memory.
const LONGEST: usize = 1 << 14;
/// Bytes in all of their texts.
const MOST_BYTES: usize = 16 << 20;

/// An error if searching for these would take too much.
pub fn check_sizes(tokens: &[SpecialToken]) -> Result<(), Error> {
    if let Some(token) = tokens.iter().find(|token| token.content.len() > LONGEST) {
        let start: String = token.content.chars().take(20).collect();
        let length = token.content.len();
        return Err(Error::Argument(format!(
            "special_tokens: {start:?}... has {length} bytes: the limit is {LONGEST}"
        )));
    }
    let total: usize = tokens.iter().map(|token| token.content.len()).sum();
    if total > MOST_BYTES {
        return Err(Error::Argument(format!("special_tokens: {total} bytes in all: the limit is {MOST_BYTES}")));
    }
    Ok(())
}

/// A choice among the special tokens of a tokenizer.
#[derive(Clone, Debug)]
pub enum Allowed {
    /// All of them.
    All,
    /// Those with these texts.
    Some(Vec<String>),
}

/// The special tokens of a tokenizer and a search for all of them at once.
#[derive(Debug)]
pub struct Specials {
    tokens: Vec<SpecialToken>,
    by_id: FxHashMap<u32, usize>,
    all: Option<Search>,
    refused: Option<Search>,
}

/// Finds the leftmost special token, the longest where several start.
#[derive(Debug)]
pub struct Search {
    automaton: AhoCorasick,
    tokens: Vec<(u32, String)>,
    /// What all tokens start with, if that is one byte: most texts do not hold it.
    first: Option<u8>,
}

impl Search {
    fn new(tokens: Vec<(u32, String)>) -> Result<Option<Self>, Error> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let mut firsts = tokens.iter().map(|(_, content)| content.as_bytes()[0]);
        let first = firsts.next().filter(|&first| firsts.all(|other| other == first));
        AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(_, content)| content))
            .map(|automaton| Some(Self { automaton, tokens, first }))
            .map_err(|error| Error::Argument(format!("special_tokens: {error}")))
    }

    /// Start, end and id of the first one in `text` from `at` on.
    pub fn find(&self, text: &[u8], at: usize) -> Option<(usize, usize, u32)> {
        let at = self.skip(text, at)?;
        let found = self.automaton.find(aho_corasick::Input::new(text).range(at..))?;
        Some((found.start(), found.end(), self.tokens[found.pattern().as_usize()].0))
    }

    fn check(&self, text: &[u8]) -> Result<(), Error> {
        let found = self.skip(text, 0).and_then(|at| self.automaton.find(aho_corasick::Input::new(text).range(at..)));
        match found {
            Some(found) => Err(Error::SpecialInText(self.tokens[found.pattern().as_usize()].1.clone())),
            None => Ok(()),
        }
    }

    /// The first place from `at` on where a token could start.
    #[inline]
    fn skip(&self, text: &[u8], at: usize) -> Option<usize> {
        match self.first {
            Some(first) => memchr::memchr(first, &text[at..]).map(|found| at + found),
            None => Some(at),
        }
    }
}

/// What to look for in a text: built once for a call, used for each of its texts.
pub struct Rules<'a> {
    refused: Choice<'a>,
    parsed: Choice<'a>,
}

enum Choice<'a> {
    None,
    All(&'a Search),
    Some(Search),
}

impl Choice<'_> {
    fn search(&self) -> Option<&Search> {
        match self {
            Self::None => None,
            Self::All(search) => Some(search),
            Self::Some(search) => Some(search),
        }
    }
}

impl Rules<'_> {
    /// An error if the text holds a special token that it must not.
    pub fn check(&self, text: &[u8]) -> Result<(), Error> {
        self.refused.search().map_or(Ok(()), |search| search.check(text))
    }

    pub fn parsed(&self) -> Option<&Search> {
        self.parsed.search()
    }
}

impl Specials {
    pub fn new(tokens: Vec<SpecialToken>) -> Result<Self, Error> {
        let mut contents = FxHashSet::default();
        for token in &tokens {
            if token.content.is_empty() {
                return Err(Error::Argument("special_tokens: one of them is empty".into()));
            }
            if !contents.insert(token.content.as_str()) {
                return Err(Error::Argument(format!("special_tokens: {:?} stands there twice", token.content)));
            }
        }
        let by_id = tokens.iter().enumerate().map(|(index, token)| (token.id, index)).collect();
        let search = |chosen: &dyn Fn(&SpecialToken) -> bool| {
            Search::new(
                tokens.iter().filter(|token| chosen(token)).map(|token| (token.id, token.content.clone())).collect(),
            )
        };
        let all = search(&|_| true)?;
        let refused = search(&|token| token.special)?;
        Ok(Self { tokens, by_id, all, refused })
    }

    pub fn tokens(&self) -> &[SpecialToken] {
        &self.tokens
    }

    pub fn get(&self, id: u32) -> Option<&SpecialToken> {
        self.tokens.get(*self.by_id.get(&id)?)
    }

    /// As tiktoken: `disallowed` ones (`All`: those not allowed) make the text an error, `allowed` ones are parsed, the
    /// rest is ordinary text.
    pub fn rules(&self, allowed: &Allowed, disallowed: &Allowed) -> Result<Rules<'_>, Error> {
        // What most calls ask for, without building anything.
        if let (Allowed::Some(names), Allowed::All) = (allowed, disallowed)
            && names.is_empty()
        {
            return Ok(Rules {
                refused: self.refused.as_ref().map_or(Choice::None, Choice::All),
                parsed: Choice::None,
            });
        }
        let all = || self.all.as_ref().map_or(Choice::None, Choice::All);
        let chosen = |tokens| Ok::<_, Error>(Search::new(tokens)?.map_or(Choice::None, Choice::Some));
        let allowed_names: FxHashSet<&str> = match allowed {
            Allowed::All => self.tokens.iter().map(|token| token.content.as_str()).collect(),
            Allowed::Some(names) => names.iter().map(String::as_str).collect(),
        };
        let parsed = match allowed {
            Allowed::All => all(),
            Allowed::Some(_) => chosen(
                allowed_names
                    .iter()
                    .map(|&name| self.find(name).map(|token| (token.id, name.to_owned())))
                    .collect::<Result<_, _>>()?,
            )?,
        };
        let refused = match disallowed {
            Allowed::All => chosen(
                self.tokens
                    .iter()
                    .filter(|token| token.special && !allowed_names.contains(token.content.as_str()))
                    .map(|token| (token.id, token.content.clone()))
                    .collect(),
            )?,
            Allowed::Some(names) => {
                chosen(names.iter().filter(|name| !name.is_empty()).map(|name| (0, name.clone())).collect())?
            }
        };
        Ok(Rules { refused, parsed })
    }

    fn find(&self, content: &str) -> Result<&SpecialToken, Error> {
        self.tokens.iter().find(|token| token.content == content).ok_or_else(|| {
            Error::Argument(format!("allowed_special: {content:?} is not a special token of this tokenizer"))
        })
    }
}
