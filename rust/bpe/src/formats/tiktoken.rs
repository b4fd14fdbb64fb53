//! tiktoken's rank files: a line for each token, its bytes in base64 and its rank, which is its id and the order in
//! which it may be built.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::merges::{Merge, PairTable, Scratch};
use crate::special::{Flags, SpecialToken};
use crate::tokenizer::{Parts, Tokenizer};
use crate::vocabulary::MAX_VOCABULARY;
use crate::{Cancel, Error, Pattern};

/// A tokenizer from the text of a rank file, which tells neither the pattern nor the special tokens.
pub fn from_tiktoken(file: &[u8], pattern: Pattern, specials: Vec<(String, u32)>) -> Result<Tokenizer, Error> {
    let tokens = read_ranks(file)?;
    for (content, id) in &specials {
        if tokens.get(*id as usize).is_some_and(|token| !token.is_empty()) {
            return Err(Error::Argument(format!(
                "special_tokens: {content:?} has id {id}, which is an ordinary token's"
            )));
        }
    }
    let merges = merges_of(&tokens)?;
    if let Some(byte) = (0..=255).find(|&byte| !tokens.iter().any(|token| token[..] == [byte])) {
        return Err(Error::format(format!("not a tiktoken rank file: byte 0x{byte:02x} has no token")));
    }
    let special = |(content, id)| SpecialToken { content, id, special: true, flags: Flags::default() };
    let specials = specials.into_iter().map(special).collect();
    Tokenizer::new(Parts { pattern, tokens, merges, specials, whole_pieces: true, nfc: false, post_processor: None })
}

fn read_ranks(file: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    for (number, line) in (1..).zip(file.split(|&byte| byte == b'\n')) {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let broken = |reason: &str| Error::format(format!("not a tiktoken rank file: line {number}: {reason}"));
        let space =
            line.iter().position(|&byte| byte == b' ').ok_or_else(|| broken("no space between token and rank"))?;
        let token = STANDARD.decode(&line[..space]).map_err(|_| broken("the token is not base64"))?;
        let rank = std::str::from_utf8(&line[space + 1..]).ok().and_then(|rank| rank.parse::<usize>().ok());
        let rank = rank.ok_or_else(|| broken("the rank is not a number"))?;
        if rank >= MAX_VOCABULARY {
            return Err(broken(&format!("rank {rank}: the limit is {MAX_VOCABULARY}")));
        }
        if token.is_empty() {
            return Err(broken("the token is empty"));
        }
        if rank >= tokens.len() {
            tokens.resize(rank + 1, Vec::new());
        }
        if !tokens[rank].is_empty() {
            return Err(broken(&format!("rank {rank} stands there twice")));
        }
        tokens[rank] = token;
    }
    match tokens.iter().position(Vec::is_empty) {
        Some(rank) => Err(Error::format(format!("not a tiktoken rank file: rank {rank} is missing"))),
        None => Ok(tokens),
    }
}

/// The one pair that builds each token. tiktoken joins any two neighbours whose bytes together are a token. Inside the
/// bytes of a token all joins of lower rank are made first, in the same order wherever the bytes stand; so two
/// neighbours can be left there in one way only, which encoding the token by the ranks below its own finds. Where that
/// leaves more than two parts, no join ever makes the token.
fn merges_of(tokens: &[Vec<u8>]) -> Result<Vec<Merge>, Error> {
    let mut index: FxHashMap<&[u8], u32> = FxHashMap::default();
    let mut byte_ids = [u32::MAX; 256];
    for (id, token) in (0..).zip(tokens) {
        if index.insert(token, id).is_some() {
            return Err(Error::format(format!("not a tiktoken rank file: rank {id}: its token stands there twice")));
        }
        if let [byte] = token[..] {
            byte_ids[usize::from(byte)] = id;
        }
    }
    let mut table = PairTable::with_capacity(tokens.len());
    let mut merges = Vec::with_capacity(tokens.len());
    let (mut scratch, mut parts, cancel) = (Scratch::default(), Vec::new(), Cancel::new());
    for (id, token) in (0..).zip(tokens).filter(|(_, token)| token.len() > 1) {
        if token.iter().any(|&byte| byte_ids[usize::from(byte)] == u32::MAX) {
            continue;
        }
        parts.clear();
        table.merge(token, &byte_ids, &mut scratch, &cancel, &mut parts)?;
        if let [left, right] = parts[..] {
            let merge = Merge { left, right, result: id };
            table.insert(merge, id);
            merges.push(merge);
        }
    }
    Ok(merges)
}

fn merges_leave_out(merges: &[Merge], tokens: &[Vec<u8>]) -> bool {
    tokens.iter().filter(|token| token.len() > 1).count() > merges.len()
}

/// The rank file, if ranks can say what this tokenizer does.
pub fn to_tiktoken(tokenizer: &Tokenizer) -> Result<Vec<u8>, Error> {
    if let Some(missing) = &tokenizer.missing {
        let byte = missing.first();
        return Err(Error::Argument(format!("a rank file cannot hold this tokenizer: byte 0x{byte:02x} has no token")));
    }
    let tokens: Vec<Vec<u8>> = tokenizer.vocabulary().iter().map(|(_, bytes)| bytes.to_vec()).collect();
    let dense = tokenizer.vocabulary().iter().zip(0..).all(|((id, _), rank)| id == rank);
    if !dense {
        return Err(Error::Argument(
            "a rank file cannot hold this tokenizer: its ordinary ids do not start at 0 without a gap".into(),
        ));
    }
    let expected = merges_of(&tokens)?;
    // A file may list other ways to make a token too, as Llama 3's does: no text gets to them.
    let made: FxHashSet<(u32, u32)> = expected.iter().map(|merge| (merge.left, merge.right)).collect();
    let in_order = tokenizer.merges().is_sorted_by_key(|merge| merge.result);
    if !in_order || !tokenizer.merges().iter().filter(|merge| made.contains(&(merge.left, merge.right))).eq(&expected) {
        return Err(Error::Argument(
            "a rank file cannot hold this tokenizer: its merges are not in the order of the ids that they make".into(),
        ));
    }
    if merges_leave_out(&expected, &tokens) && !tokenizer.takes_whole_pieces() {
        return Err(Error::Argument(
            "a rank file cannot hold this tokenizer: tokens that no merge makes would be taken for whole pre-tokens"
                .into(),
        ));
    }
    let mut file = Vec::new();
    for (rank, token) in tokens.iter().enumerate() {
        writeln!(file, "{} {rank}", STANDARD.encode(token)).map_err(|error| Error::format(error.to_string()))?;
    }
    Ok(file)
}
