//! What training starts from: the 256 bytes, or a tokenizer that is trained on.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::TrainOptions;
use crate::merges::Merge;
use crate::special::{Flags, SpecialToken};
use crate::tokenizer::{Parts, Tokenizer};
use crate::vocabulary::BYTE_ORDER;
use crate::{Error, Pattern};

/// Which of two pairs that are equally frequent is merged first: the one with the smaller left id, then the smaller
/// right id. The choice is the order of the ids of single bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Their own ids, which in a new tokenizer put visible Latin-1 characters first, as Hugging Face does.
    Alphabet,
    /// By value, as rustbpe and bpeasy do.
    Bytes,
}

/// The tokens there are before the first merge, and the order that breaks ties.
#[derive(Debug)]
pub struct Start {
    base: Option<Arc<Tokenizer>>,
    byte_ids: [u32; 256],
    /// By id, its number in the order for ties.
    order: Vec<u32>,
    /// By that number, the id.
    ids: Vec<u32>,
}

impl Start {
    pub fn new(options: &TrainOptions) -> Result<Self, Error> {
        let base = match &options.base {
            None if options.initial_alphabet.is_empty() => None,
            None => Some(Arc::new(with_alphabet(bytes(&options.pattern), &options.initial_alphabet)?)),
            Some(base) if options.initial_alphabet.is_empty() => Some(Arc::clone(base)),
            Some(base) => Some(Arc::new(with_alphabet(parts_of(base), &options.initial_alphabet)?)),
        };
        if let Some(missing) = options.base.as_ref().and_then(|base| base.missing.as_ref()) {
            let byte = missing.first();
            return Err(Error::Argument(format!("base: byte 0x{byte:02x} has no token: training needs all 256")));
        }
        let size = base.as_ref().map_or(256, |base| base.vocab_size());
        let mut byte_ids = [0; 256];
        for (id, token) in tokens_of(base.as_deref()) {
            if let [byte] = token {
                byte_ids[usize::from(*byte)] = id;
            }
        }
        let mut ids: Vec<u32> = (0..size as u32).collect();
        if options.ties == Ties::Bytes {
            let mut sorted = byte_ids;
            sorted.sort_unstable();
            for (number, id) in sorted.into_iter().zip(byte_ids) {
                ids[number as usize] = id;
            }
        }
        let mut order = vec![0; size];
        for (number, &id) in (0..).zip(&ids) {
            order[id as usize] = number;
        }
        Ok(Self { base, byte_ids, order, ids })
    }

    pub fn base(&self) -> Option<&Tokenizer> {
        self.base.as_deref()
    }

    /// The number of a byte in the order for ties.
    pub fn byte_id(&self, byte: u8) -> u32 {
        self.order(self.byte_ids[usize::from(byte)])
    }

    /// The number of an id in the order for ties.
    pub fn order(&self, id: u32) -> u32 {
        self.order[id as usize]
    }

    /// Ids there are.
    pub fn size(&self) -> usize {
        self.ids.len()
    }

    /// Merges to find for `tokens` new tokens: tokens that no merge makes (rank files have some) get one, if a pair
    /// with their bytes comes up, and no new id.
    pub fn merges_for(&self, tokens: usize) -> usize {
        let Some(base) = self.base() else { return tokens };
        let made: FxHashSet<u32> = base.merges().iter().map(|merge| merge.result).collect();
        tokens + base.vocabulary().iter().filter(|(id, bytes)| bytes.len() > 1 && !made.contains(id)).count()
    }

    /// The tokenizer with the merges found, as far as they make `tokens` new tokens; and the number of these.
    pub fn finish(&self, options: &TrainOptions, found: &[(u32, u32)], tokens: usize) -> (Parts, usize) {
        let mut parts = self.base().map_or_else(|| bytes(&options.pattern), parts_of);
        let known: FxHashMap<Vec<u8>, u32> =
            self.base().into_iter().flat_map(|base| base.vocabulary().iter()).map(|(id, b)| (b.to_vec(), id)).collect();
        let mut ids = self.ids.clone();
        let first = parts.tokens.len();
        for &(left, right) in found {
            if parts.tokens.len() - first == tokens {
                break;
            }
            let (left, right) = (ids[left as usize], ids[right as usize]);
            let token = [&parts.tokens[left as usize][..], &parts.tokens[right as usize][..]].concat();
            let result = known.get(&token).copied().unwrap_or(parts.tokens.len() as u32);
            if result as usize == parts.tokens.len() {
                parts.tokens.push(token);
            }
            parts.merges.push(Merge { left, right, result });
            ids.push(result);
        }
        let learned = parts.tokens.len() - first;
        for (id, content) in (parts.tokens.len() as u32..).zip(self.new_specials(options)) {
            parts.specials.push(special(content, id));
        }
        (parts, learned)
    }

    /// The special tokens that the base does not have.
    pub fn new_specials<'a>(&'a self, options: &'a TrainOptions) -> impl Iterator<Item = &'a String> {
        let has = |content: &String| {
            self.base().is_some_and(|base| base.special_tokens().iter().any(|token| token.content == *content))
        };
        options.special_tokens.iter().filter(move |content| !has(content))
    }

    /// The special tokens at which text is cut; their ids mean nothing.
    pub fn all_specials(&self, options: &TrainOptions) -> Vec<SpecialToken> {
        let known = self.base().map_or(&[][..], Tokenizer::special_tokens);
        known.iter().cloned().chain(self.new_specials(options).map(|content| special(content, 0))).collect()
    }
}

fn special(content: &str, id: u32) -> SpecialToken {
    SpecialToken { content: content.to_owned(), id, special: true, flags: Flags::default() }
}

fn bytes(pattern: &Pattern) -> Parts {
    Parts {
        pattern: pattern.clone(),
        tokens: BYTE_ORDER.iter().map(|&byte| vec![byte]).collect(),
        merges: Vec::new(),
        specials: Vec::new(),
        whole_pieces: false,
        nfc: false,
        post_processor: None,
    }
}

fn parts_of(base: &Tokenizer) -> Parts {
    let mut tokens = vec![Vec::new(); base.vocab_size()];
    for (id, token) in base.vocabulary().iter() {
        tokens[id as usize] = token.to_vec();
    }
    Parts {
        pattern: base.pattern().clone(),
        tokens,
        merges: base.merges().to_vec(),
        specials: base.special_tokens().to_vec(),
        whole_pieces: base.takes_whole_pieces(),
        nfc: base.normalizes(),
        post_processor: base.post_processor().map(str::to_owned),
    }
}

fn tokens_of(base: Option<&Tokenizer>) -> Vec<(u32, &[u8])> {
    match base {
        Some(base) => base.vocabulary().iter().collect(),
        None => (0..).zip(BYTE_ORDER.iter().map(std::slice::from_ref)).collect(),
    }
}

/// Adds the merges that make one token of each character.
fn with_alphabet(mut parts: Parts, characters: &[char]) -> Result<Tokenizer, Error> {
    let mut ranks: FxHashMap<(u32, u32), (usize, u32)> = FxHashMap::default();
    for (rank, merge) in parts.merges.iter().enumerate() {
        ranks.insert((merge.left, merge.right), (rank, merge.result));
    }
    let mut byte_ids = [0; 256];
    for (id, token) in (0..).zip(&parts.tokens) {
        if let [byte] = token[..] {
            byte_ids[usize::from(byte)] = id;
        }
    }
    for character in characters {
        let mut ids: Vec<u32> =
            character.encode_utf8(&mut [0; 4]).bytes().map(|byte| byte_ids[usize::from(byte)]).collect();
        while ids.len() > 1 {
            let known = |at: usize| ranks.get(&(ids[at], ids[at + 1])).map(|&(rank, result)| (rank, at, result));
            let (at, result) = match (0..ids.len() - 1).filter_map(known).min() {
                Some((_, at, result)) => (at, result),
                None => {
                    let result = parts.tokens.len() as u32;
                    let [left, right] = [ids[0], ids[1]];
                    parts.tokens.push([&parts.tokens[left as usize][..], &parts.tokens[right as usize][..]].concat());
                    ranks.insert((left, right), (parts.merges.len(), result));
                    parts.merges.push(Merge { left, right, result });
                    (0, result)
                }
            };
            ids[at] = result;
            ids.remove(at + 1);
        }
    }
    Tokenizer::new(parts)
}
