//! The tokenizer: immutable, shared between threads.

use std::sync::{Mutex, OnceLock};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::front::{Chosen, Front, Part, Piece};
use crate::merges::{Merge, PairTable, Scratch};
use crate::special::{Allowed, Rules, SpecialToken, Specials};
use crate::vocabulary::{MAX_VOCABULARY, Vocabulary};
use crate::{Cancel, Error, Pattern};

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
    table: PairTable,
    byte_ids: [u32; 256],
    specials: Specials,
    front: Option<Front>,
    size: usize,
    whole_pieces: Option<FxHashMap<Box<[u8]>, u32>>,
    post_processor: Option<String>,
    fingerprint: OnceLock<String>,
    idle: Mutex<Vec<Workspace>>,
}

/// Ids of several texts, one after another.
#[derive(Debug, Default)]
pub struct Encoded {
    /// All ids.
    pub ids: Vec<u32>,
    /// Where each text starts in `ids`, and the end of the last.
    pub offsets: Vec<i64>,
}

/// What to look for in the texts of a call besides ordinary text.
pub(crate) struct Plan<'a> {
    rules: Rules<'a>,
    chosen: Option<Chosen<'a>>,
}

/// What one thread needs to encode; kept between calls for its cache.
#[derive(Debug)]
struct Workspace {
    cache: Cache,
    scratch: Scratch,
}

/// Workspaces kept for later calls: more threads than this pay for a new cache.
const MOST_IDLE: usize = 64;
/// Pre-tokens between two looks at the cancel flag.
const CHECK: u32 = 1 << 12;
/// Bytes of text that are worth handing to another thread.
const BATCH: usize = 1 << 15;

impl Tokenizer {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { pattern, tokens, merges, specials, whole_pieces, nfc, post_processor } = parts;
        let vocabulary = Vocabulary::new(&tokens)?;
        let size = specials.iter().map(|token| token.id as usize + 1).max().unwrap_or(0).max(vocabulary.len());
        if size > MAX_VOCABULARY {
            return Err(Error::format(format!("a special token has id {}: the limit is {MAX_VOCABULARY}", size - 1)));
        }
        let byte_ids = byte_ids(&vocabulary)?;
        let mut table = PairTable::with_capacity(merges.len());
        for (rank, merge) in (0..).zip(&merges) {
            if !table.insert(*merge, rank) {
                return Err(Error::format(format!("merge {rank} stands there twice: {merge:?}")));
            }
        }
        let whole_pieces =
            whole_pieces.then(|| vocabulary.iter().map(|(id, bytes)| (bytes.into(), id)).collect::<FxHashMap<_, _>>());
        let front = Front::new(nfc, &specials)?;
        Ok(Self {
            pattern,
            front,
            merges,
            table,
            byte_ids,
            specials: Specials::new(specials)?,
            size,
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
        self.whole_pieces.is_some()
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

    /// The ids of a text, which need not be UTF-8.
    pub fn encode(
        &self,
        text: &[u8],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Vec<u32>, Error> {
        let plan = self.plan(allowed, disallowed)?;
        let mut ids = Vec::with_capacity(text.len() / 4 + 4);
        self.with_workspace(|workspace| self.encode_into(text, &plan, workspace, cancel, &mut ids))?;
        Ok(ids)
    }

    /// The ids of many texts, on all threads of the current rayon pool.
    pub fn encode_batch(
        &self,
        texts: &[&[u8]],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Encoded, Error> {
        let plan = self.plan(allowed, disallowed)?;
        let parts: Vec<Encoded> = batches(texts)
            .into_par_iter()
            .map(|batch| self.encode_part(batch, &plan, cancel))
            .collect::<Result<_, _>>()?;
        let mut encoded = Encoded {
            ids: Vec::with_capacity(parts.iter().map(|part| part.ids.len()).sum()),
            offsets: Vec::with_capacity(texts.len() + 1),
        };
        encoded.offsets.push(0);
        for part in parts {
            let start = encoded.ids.len() as i64;
            encoded.ids.extend_from_slice(&part.ids);
            encoded.offsets.extend(part.offsets.iter().map(|end| start + end));
        }
        Ok(encoded)
    }

    /// As [`Encoded`], but that `offsets` holds each text's end alone.
    fn encode_part(&self, texts: &[&[u8]], plan: &Plan<'_>, cancel: &Cancel) -> Result<Encoded, Error> {
        let mut part = Encoded::default();
        self.with_workspace(|workspace| {
            for text in texts {
                self.encode_into(text, plan, workspace, cancel, &mut part.ids)?;
                part.offsets.push(part.ids.len() as i64);
            }
            Ok(())
        })?;
        Ok(part)
    }

    fn encode_into(
        &self,
        text: &[u8],
        plan: &Plan<'_>,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if plan.chosen.is_some() {
            return self.encode_walking(text, plan, workspace, cancel, out);
        }
        plan.rules.check(text)?;
        let mut at = 0;
        if let Some(search) = plan.rules.parsed() {
            while let Some((start, end, id)) = search.find(text, at) {
                self.encode_ordinary(&text[at..start], workspace, cancel, out)?;
                out.push(id);
                at = end;
            }
        }
        self.encode_ordinary(&text[at..], workspace, cancel, out)
    }

    fn encode_ordinary(
        &self,
        text: &[u8],
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if let Some(cutter) = self.pattern.cutter() {
            return cutter
                .cut(text, cancel, &mut |start, end| self.encode_known(text, start, end, workspace, cancel, out));
        }
        let mut start = 0;
        let mut pieces = 0u32;
        while start < text.len() {
            pieces = pieces.wrapping_add(1);
            if pieces.is_multiple_of(CHECK) {
                cancel.check()?;
            }
            let end = self.pattern.piece_end(text, start);
            self.encode_known(text, start, end, workspace, cancel, out)?;
            start = end;
        }
        Ok(())
    }

    #[inline]
    fn encode_known(
        &self,
        text: &[u8],
        start: usize,
        end: usize,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if let Some(place) = workspace.cache.get(text, start, end, out) {
            let known = out.len();
            self.encode_piece(&text[start..end], &mut workspace.scratch, cancel, out)?;
            workspace.cache.put(place, &text[start..end], &out[known..]);
        }
        Ok(())
    }

    /// What to look for in a text, worked out once for a call.
    pub(crate) fn plan(&self, allowed: &Allowed, disallowed: &Allowed) -> Result<Plan<'_>, Error> {
        let rules = self.specials.rules(allowed, disallowed)?;
        let chosen = self.front.as_ref().map(|front| front.choose(self.specials.tokens(), allowed)).transpose()?;
        Ok(Plan { rules, chosen })
    }

    /// Calls `each` with the special tokens and the text between them, in the order of the text.
    pub(crate) fn walk(
        &self,
        text: &[u8],
        plan: &Plan<'_>,
        cancel: &Cancel,
        mut each: impl FnMut(&Part<'_>, Piece) -> Result<(), Error>,
    ) -> Result<(), Error> {
        plan.rules.check(text)?;
        if let (Some(front), Some(chosen)) = (&self.front, &plan.chosen) {
            return front.walk(text, chosen, cancel, each);
        }
        let part = Part::as_it_is(text);
        let mut at = 0;
        if let Some(search) = plan.rules.parsed() {
            while let Some((start, end, id)) = search.find(text, at) {
                if start > at {
                    each(&part, Piece::Text { start: at, end: start })?;
                }
                each(&part, Piece::Token { id, start, end })?;
                at = end;
            }
        }
        if at < text.len() { each(&part, Piece::Text { start: at, end: text.len() }) } else { Ok(()) }
    }

    /// Appends the ids of ordinary text.
    pub(crate) fn encode_text(&self, text: &[u8], cancel: &Cancel, out: &mut Vec<u32>) -> Result<(), Error> {
        self.with_workspace(|workspace| self.encode_ordinary(text, workspace, cancel, out))
    }

    fn encode_walking(
        &self,
        text: &[u8],
        plan: &Plan<'_>,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        self.walk(text, plan, cancel, |part, piece| match piece {
            Piece::Token { id, .. } => {
                out.push(id);
                Ok(())
            }
            Piece::Text { start, end } => self.encode_ordinary(&part.text[start..end], workspace, cancel, out),
        })
    }

    fn encode_piece(
        &self,
        piece: &[u8],
        scratch: &mut Scratch,
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if let Some(&id) = self.whole_pieces.as_ref().and_then(|pieces| pieces.get(piece)) {
            out.push(id);
            return Ok(());
        }
        self.table.merge(piece, &self.byte_ids, scratch, cancel, out)
    }

    /// Lends a workspace. A lock that is not free at once is not waited for: it may be a forked child's copy of one
    /// that a thread of the parent held.
    fn with_workspace<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut workspace = idle.unwrap_or_else(|| Workspace { cache: Cache::new(), scratch: Scratch::default() });
        let result = work(&mut workspace);
        workspace.scratch.shrink();
        if let Ok(mut idle) = self.idle.try_lock()
            && idle.len() < MOST_IDLE
        {
            idle.push(workspace);
        }
        result
    }

    /// The bytes that the ids stand for.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.token(id)?);
        }
        Ok(bytes)
    }
}

fn byte_ids(vocabulary: &Vocabulary) -> Result<[u32; 256], Error> {
    let mut ids = [u32::MAX; 256];
    for (id, bytes) in vocabulary.iter() {
        if let [byte] = bytes {
            ids[usize::from(*byte)] = id;
        }
    }
    match ids.iter().position(|&id| id == u32::MAX) {
        Some(byte) => Err(Error::format(format!("byte 0x{byte:02x} has no token: byte-level BPE needs all 256"))),
        None => Ok(ids),
    }
}

/// Neighbouring texts, in groups that are worth handing to a thread.
fn batches<'a, 't>(texts: &'a [&'t [u8]]) -> Vec<&'a [&'t [u8]]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, text) in texts.iter().enumerate() {
        bytes += text.len() + 64;
        if bytes >= BATCH {
            batches.push(&texts[start..=index]);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < texts.len() {
        batches.push(&texts[start..]);
    }
    batches
}
