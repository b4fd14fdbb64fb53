//! Encoding by longest tokens: takes the longest token that may stand beside the one before, and goes back where none
//! may. The ids are those of the merges (docs/bpe.md has the proof), found in one pass over the bytes.
//!
//! The idea of testing neighbours by undoing merges is from van Antwerpen and Neubeck 2024, "So many tokens, so little
//! time: introducing a faster, more flexible byte-pair tokenizer" (GitHub blog); here ranks stand for ids, so that it
//! holds for any merges in which a token is made after its parts.

use crate::merges::{Merge, PairTable};
use crate::trie::{Entry, Trie};
use crate::vocabulary::Vocabulary;
use crate::{Cancel, Error};

const NONE: u32 = u32::MAX;
/// A token of so many bytes is worth trying again behind itself.
const LONG_ENOUGH: usize = 16;
/// Tokens between two looks at the cancel flag.
const CHECK: usize = 1 << 16;
/// Merges that may be undone for each byte before the heap takes over, whose time does not depend on the merges:
/// a vocabulary made to fight with itself would need any number.
const MOST_UNDONE: usize = 256;

/// A vocabulary ready for encoding by longest tokens.
#[derive(Debug)]
pub struct Longest {
    trie: Trie,
    tokens: Vec<Token>,
    /// A token is made after its parts.
    regular: bool,
    has_unmade: bool,
}

#[derive(Clone, Copy, Debug)]
struct Token {
    left: u32,
    right: u32,
    /// 0 for a byte, for others one more than the rank of the merge that makes it.
    rank: u32,
    /// Bytes; 0 if merges never make it.
    length: u32,
    /// The longest token that merges make and that this one starts with, other than itself.
    shorter: u32,
}

const UNMADE: Token = Token { left: NONE, right: NONE, rank: NONE, length: 0, shorter: NONE };

/// What a search for the encoding of a pre-token has learned of its places.
#[derive(Debug, Default)]
pub struct Trail {
    /// Where no encoding of what comes before ends.
    dead_ends: Places,
    /// Where the token of before was tried first.
    repeats: Places,
}

impl Trail {
    /// Gives back memory that one very long pre-token took.
    pub fn shrink(&mut self) {
        for places in [&mut self.dead_ends, &mut self.repeats] {
            places.0.clear();
            places.0.shrink_to(1 << 12);
        }
    }
}

#[derive(Debug, Default)]
struct Places(Vec<u64>);

impl Places {
    fn contain(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 != 0)
    }

    fn add(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// Whether it was there.
    fn remove(&mut self, at: usize) -> bool {
        let was_there = self.contain(at);
        if was_there {
            self.0[at / 64] ^= 1 << (at % 64);
        }
        was_there
    }
}

impl Longest {
    /// `table` holds the merges, each with its place in `merges` as its rank.
    pub fn new(vocabulary: &Vocabulary, merges: &[Merge], table: &PairTable, byte_ids: &[u32; 256]) -> Self {
        let mut tokens = vec![UNMADE; vocabulary.len()];
        for &id in byte_ids {
            if let Some(token) = tokens.get_mut(id as usize) {
                *token = Token { rank: 0, length: 1, ..UNMADE };
            }
        }
        let mut longest = Self { trie: Trie::new(Vec::new()), tokens, regular: true, has_unmade: false };
        longest.set_parts(merges, table);
        let entry = |(id, bytes)| Entry { bytes, id, made: longest.tokens[id as usize].length > 0 };
        longest.trie = Trie::new(vocabulary.iter().map(entry).collect());
        longest.has_unmade =
            !longest.regular || vocabulary.iter().any(|(id, _)| longest.tokens[id as usize].length == 0);
        for (id, bytes) in vocabulary.iter() {
            if longest.tokens[id as usize].length > 1 {
                longest.tokens[id as usize].shorter = longest.trie.longest(&bytes[..bytes.len() - 1]).unwrap_or(NONE);
            }
        }
        longest
    }

    fn set_parts(&mut self, merges: &[Merge], table: &PairTable) {
        let mut is_part = vec![false; self.tokens.len()];
        for (rank, &Merge { left, right, result }) in (1..).zip(merges) {
            let [a, b, made] = [left, right, result].map(|id| self.tokens[id as usize].length);
            is_part[left as usize] = true;
            is_part[right as usize] = true;
            // A file may list several merges for a token. The one that makes it, if any does, is that which no merge
            // of lower rank comes before, inside the bytes of the token.
            if a == 0 || b == 0 || made > 0 || !self.stay_apart(table, left, right, rank, &mut 0) {
                continue;
            }
            if is_part[result as usize] {
                // Of a token that is made before.
                self.regular = false;
                return;
            }
            self.tokens[result as usize] = Token { left, right, rank, length: a + b, shorter: NONE };
        }
    }

    /// Whether a part of a pre-token is encoded as if it were one: not where it could be a token that merges do not make.
    pub fn parts_may_stand_alone(&self, vocabulary: &Vocabulary, whole_pieces: bool) -> bool {
        let unmade = |(id, bytes): (u32, &[u8])| {
            (!self.regular || self.tokens[id as usize].length == 0) && bytes.iter().any(|byte| byte & 0xf0 == 0xe0)
        };
        !whole_pieces || !vocabulary.iter().any(unmade)
    }

    /// Whether there are tokens that merges never make.
    pub fn has_unmade(&self) -> bool {
        self.has_unmade
    }

    /// The token that is the whole of `piece`.
    pub fn whole(&self, piece: &[u8]) -> Option<u32> {
        self.trie.whole(piece)
    }

    /// Appends the ids of `piece` to `out`; false, and nothing appended, if the merges are not regular, or too much work.
    pub fn encode(
        &self,
        table: &PairTable,
        piece: &[u8],
        trail: &mut Trail,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<bool, Error> {
        if !self.regular {
            return Ok(false);
        }
        trail.dead_ends.0.clear();
        trail.repeats.0.clear();
        let first = out.len();
        let mut at = 0;
        let (mut steps, mut undone) = (0usize, 0);
        let mut next = self.longest(piece);
        while at < piece.len() {
            steps += 1;
            if steps.is_multiple_of(CHECK) {
                cancel.check()?;
            }
            if undone > MOST_UNDONE * (piece.len() + CHECK / MOST_UNDONE) {
                out.truncate(first);
                return Ok(false);
            }
            let Some(token) = self.tokens.get(next as usize) else {
                // No token may follow: the one before was too long.
                trail.dead_ends.add(at);
                let Some(last) = (out.len() > first).then(|| out.pop()).flatten() else {
                    return Ok(false);
                };
                at -= self.tokens[last as usize].length as usize;
                let shorter = self.tokens[last as usize].shorter;
                next = if trail.repeats.remove(at) { self.longest(&piece[at..]) } else { shorter };
                continue;
            };
            let end = at + token.length as usize;
            let fits = !trail.dead_ends.contain(end)
                && (at == 0 || out.last().is_some_and(|&last| self.stay_apart(table, last, next, NONE, &mut undone)));
            if fits {
                let before = &piece[at..end];
                out.push(next);
                at = end;
                if before.len() >= LONG_ENOUGH && piece[at..].starts_with(before) {
                    // In a long run the same token again is right nearly everywhere.
                    trail.repeats.add(at);
                } else {
                    next = self.longest(&piece[at..]);
                }
            } else if trail.repeats.remove(at) {
                next = self.longest(&piece[at..]);
            } else {
                next = token.shorter;
            }
        }
        Ok(true)
    }

    #[inline(always)]
    fn longest(&self, bytes: &[u8]) -> u32 {
        self.trie.longest(bytes).unwrap_or(NONE)
    }

    /// Whether no merge of a rank below `limit` joins `left` and `right`, or parts of them, in the bytes of the two
    /// alone. The last merge that made one of them is undone until both are bytes: the two parts that touch then are
    /// those that touched before that merge, when a merge of lower rank would have been taken first. Of two merges of
    /// one rank the one on the left is taken first.
    #[inline]
    fn stay_apart(&self, table: &PairTable, mut left: u32, mut right: u32, mut limit: u32, undone: &mut usize) -> bool {
        loop {
            *undone += 1;
            let (rank, _) = table.get(left, right);
            if rank != NONE && rank + 1 < limit {
                return false;
            }
            let (a, b) = (&self.tokens[left as usize], &self.tokens[right as usize]);
            if a.rank > b.rank {
                (limit, left) = (a.rank, a.right);
            } else if b.rank > 0 {
                (limit, right) = (b.rank + 1, b.left);
            } else {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merges::Scratch;
    use proptest::prelude::*;

    /// Merges over the letters a to c and each other's results; of a few, the parts come later.
    fn vocabularies() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Merge>)> {
        let pair = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
        (prop::collection::vec(pair, 1..60), prop::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(
            |(pairs, moved)| {
                let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
                let mut merges = Vec::new();
                for (left, right) in pairs {
                    let among = tokens.len() - 253;
                    let id = |index: prop::sample::Index| {
                        let index = index.index(among);
                        if index < 3 { u32::from(b'a') + index as u32 } else { 253 + index as u32 }
                    };
                    let (left, right) = (id(left), id(right));
                    let bytes = [&tokens[left as usize][..], &tokens[right as usize]].concat();
                    let known = tokens.iter().position(|token| *token == bytes);
                    let result = known.unwrap_or(tokens.len()) as u32;
                    let merge = Merge { left, right, result };
                    if bytes.len() < 70 && !merges.contains(&merge) {
                        merges.push(merge);
                        tokens.extend(known.is_none().then_some(bytes));
                    }
                }
                if let Some(moved) = moved.filter(|_| !merges.is_empty()) {
                    let merge = merges.remove(moved.index(merges.len()));
                    merges.push(merge);
                }
                (tokens, merges)
            },
        )
    }

    /// As real vocabularies have them for dashes and blanks.
    #[test]
    fn runs_are_encoded_as_merging_does() {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut merges = Vec::new();
        let mut of_length = std::collections::BTreeMap::from([(1, u32::from(b'-'))]);
        let pairs = [(1, 1), (2, 2), (4, 4), (2, 1), (8, 8), (8, 4), (16, 16), (4, 1), (32, 32), (64, 32), (64, 16)];
        for (left, right) in pairs {
            merges.push(Merge { left: of_length[&left], right: of_length[&right], result: tokens.len() as u32 });
            of_length.insert(left + right, tokens.len() as u32);
            tokens.push(vec![b'-'; left + right]);
        }
        let mut table = PairTable::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(&merges) {
            table.insert(*merge, rank);
        }
        let byte_ids = std::array::from_fn(|byte| byte as u32);
        let longest = Longest::new(&Vocabulary::new(&tokens).unwrap(), &merges, &table, &byte_ids);
        let (mut trail, mut scratch, cancel) = (Trail::default(), Scratch::default(), Cancel::new());
        for length in 1..700 {
            let run = vec![b'-'; length];
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            assert!(longest.encode(&table, &run, &mut trail, &cancel, &mut found).unwrap());
            table.merge(&run, &byte_ids, &mut scratch, &cancel, &mut expected).unwrap();
            assert_eq!(found, expected, "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn gives_the_ids_that_merging_gives((tokens, merges) in vocabularies(), text in "[a-c]{1,80}|a{1,300}|(ab){1,150}|a{1,200}b{0,5}a{0,99}") {
            let mut table = PairTable::with_capacity(merges.len());
            for (rank, merge) in (0..).zip(&merges) {
                table.insert(*merge, rank);
            }
            let byte_ids = std::array::from_fn(|byte| byte as u32);
            let longest = Longest::new(&Vocabulary::new(&tokens).unwrap(), &merges, &table, &byte_ids);
            let mut expected = Vec::new();
            table.merge(text.as_bytes(), &byte_ids, &mut Scratch::default(), &Cancel::new(), &mut expected).unwrap();
            let mut found = vec![7];
            if longest.encode(&table, text.as_bytes(), &mut Trail::default(), &Cancel::new(), &mut found).unwrap() {
                prop_assert_eq!(&found[1..], &expected);
            } else {
                prop_assert_eq!(found, [7]);
                prop_assert!(!longest.regular);
            }
        }
    }
}
