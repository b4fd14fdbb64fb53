//! The tokenizer: immutable, shared between threads.

use std::sync::{Mutex, OnceLock};

use sha2::{Digest, Sha256};

use crate::encode::Workspace;
use crate::front::Front;
use crate::longest::Longest;
use crate::merges::{Merge, PairTable};
use crate::missing::Missing;
use crate::seams::Seams;
use crate::special::{self, SpecialToken, Specials};
use crate::vocabulary::{MAX_VOCABULARY, Vocabulary};
use crate::{Error, Pattern};

/// What a tokenizer is made of, from training or from a file.
#[derive(Debug)]
pub struct Parts {
    pub pattern: Pattern,
    /// Bytes by id; empty for an id that is special or not used.
    pub tokens: Vec<Vec<u8>>,
    pub merges: Vec<Merge>,
    pub specials: Vec<SpecialToken>,
    /// A pre-token that is itself a token is not built by merges (`ignore_merges`; tiktoken's way).
    pub whole_pieces: bool,
    /// Text is brought into NFC before it is cut.
    pub nfc: bool,
    /// tokenizer.json's `post_processor`, kept to be written back; JSON.
    pub post_processor: Option<String>,
}

/// Byte-level BPE.
#[derive(Debug)]
pub struct Tokenizer {
    pattern: Pattern,
    vocabulary: Vocabulary,
    merges: Vec<Merge>,
    pub(crate) table: PairTable,
    pub(crate) byte_ids: [u32; 256],
    pub(crate) missing: Option<Missing>,
    pub(crate) specials: Specials,
    pub(crate) front: Option<Front>,
    size: usize,
    pub(crate) longest: Longest,
    pub(crate) seams: Option<Seams>,
    pub(crate) whole_pieces: bool,
    post_processor: Option<String>,
    fingerprint: OnceLock<String>,
    pub(crate) idle: Mutex<Vec<Box<Workspace>>>,
}

impl Tokenizer {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { pattern, tokens, merges, specials, whole_pieces, nfc, post_processor } = parts;
        special::check_sizes(&specials)?;
        let vocabulary = Vocabulary::new(&tokens)?;
        let size = specials.iter().map(|token| token.id as usize + 1).max().unwrap_or(0).max(vocabulary.len());
        if size > MAX_VOCABULARY {
            return Err(Error::format(format!("a special token has id {}: the limit is {MAX_VOCABULARY}", size - 1)));
        }
        let byte_ids = byte_ids(&vocabulary);
        let missing = Missing::new(&vocabulary, &byte_ids)?;
        let mut table = PairTable::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(&merges) {
            if !table.insert(*merge, rank) {
                return Err(Error::format(format!("merge {rank} stands there twice: {merge:?}")));
            }
        }
        let longest = Longest::new(&vocabulary, &merges, &table, &byte_ids);
        let seams = longest.parts_may_stand_alone(&vocabulary, whole_pieces).then(|| Seams::new(&vocabulary));
        let front = Front::new(nfc, &specials)?;
        Ok(Self {
            pattern,
            front,
            merges,
            table,
            byte_ids,
            missing,
            specials: Specials::new(specials)?,
            size,
            longest,
            seams,
            whole_pieces,
            post_processor,
            fingerprint: OnceLock::new(),
            idle: Mutex::new(Vec::new()),
            vocabulary,
        })
    }

    /// How text is cut into pre-tokens.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The special tokens, in the order they were given.
    pub fn special_tokens(&self) -> &[SpecialToken] {
        self.specials.tokens()
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The merges, in their order.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    pub(crate) fn takes_whole_pieces(&self) -> bool {
        self.whole_pieces
    }

    /// Whether text is brought into NFC before it is cut.
    pub fn normalizes(&self) -> bool {
        self.front.as_ref().is_some_and(Front::nfc)
    }

    /// tokenizer.json's `post_processor`, JSON: the special tokens that Hugging Face puts around a text.
    pub fn post_processor(&self) -> Option<&str> {
        self.post_processor.as_deref()
    }

    /// The bytes of an id; of a special token, its text.
    pub fn token(&self, id: u32) -> Result<&[u8], Error> {
        self.vocabulary
            .get(id)
            .or_else(|| self.specials.get(id).map(|token| token.content.as_bytes()))
            .ok_or(Error::UnknownId { id: u64::from(id), size: self.size })
    }

    /// SHA-256 (hex) of all that decides what ids a text gets.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            let mut field = |bytes: &[u8]| {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            };
            field(self.pattern.name().as_bytes());
            field(&[u8::from(self.takes_whole_pieces())]);
            for (id, bytes) in self.vocabulary.iter() {
                field(&id.to_le_bytes());
                field(bytes);
            }
            for merge in &self.merges {
                field(&[merge.left.to_le_bytes(), merge.right.to_le_bytes()].concat());
            }
            for special in self.specials.tokens() {
                field(&special.id.to_le_bytes());
                field(special.content.as_bytes());
                if !special.special || !special.flags.are_plain() {
                    field(format!("{special:?}").as_bytes());
                }
            }
            if self.normalizes() {
                field(b"NFC");
            }
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    /// The bytes that the ids stand for.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut rest = ids;
        loop {
            rest = &rest[self.vocabulary.append(rest, &mut bytes)?..];
            let Some((&id, later)) = rest.split_first() else { return Ok(bytes) };
            bytes.extend_from_slice(self.token(id)?);
            rest = later;
        }
    }
}

/// The id of each byte; `u32::MAX` for one that has none.
fn byte_ids(vocabulary: &Vocabulary) -> [u32; 256] {
    let mut ids = [u32::MAX; 256];
    for (id, bytes) in vocabulary.iter() {
        if let [byte] = bytes {
            ids[usize::from(*byte)] = id;
        }
    }
    ids
}
