//! The tokenizer: immutable, shared between threads.

use std::sync::{Mutex, OnceLock};

use rayon::prelude::*;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::merges::{Merge, PairTable, Scratch};
use crate::pretokenize::ENDS;
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
    size: usize,
    whole_pieces: Option<FxHashMap<Box<[u8]>, u32>>,
    post_processor: Option<String>,
    fingerprint: OnceLock<String>,
    idle: Mutex<Vec<Box<Workspace>>>,
}

/// What an array holds ids as.
pub trait Id: Copy + Send + Sync {
    /// The id, which the caller knows to fit.
    fn from_id(id: u32) -> Self;
}

impl Id for u32 {
    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id
    }
}

impl Id for u16 {
    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id as u16
    }
}

/// Ids of several texts, one after another.
#[derive(Debug, Default)]
pub struct Encoded<T> {
    /// All ids.
    pub ids: Vec<T>,
    /// Where each text starts in `ids`, and the end of the last.
    pub offsets: Vec<i64>,
}

/// What one thread needs to encode; kept between calls for its cache.
#[derive(Debug)]
struct Workspace {
    cache: Cache,
    scratch: Scratch,
    ids: Vec<u32>,
    ends: [usize; ENDS],
    /// Key and place in the cache of each pre-token; key 0 for a long one.
    keys: [(u128, usize); ENDS],
}

impl Workspace {
    fn new() -> Box<Self> {
        let (cache, scratch) = (Cache::new(), Scratch::default());
        Box::new(Self { cache, scratch, ids: Vec::new(), ends: [0; ENDS], keys: [(0, 0); ENDS] })
    }
}

/// Workspaces kept for later calls: more threads than this pay for a new cache.
const MOST_IDLE: usize = 64;
/// Ids of one pre-token that a workspace keeps room for.
const MOST_IDS: usize = 1 << 16;
/// Text up to this many bytes gets room for an id a byte at once.
const SMALL: usize = 1 << 12;
/// Bytes of text that are worth handing to another thread.
const BATCH: usize = 1 << 15;
/// Parts for each thread: enough that none waits long for the last.
const PARTS: usize = 8;

impl Tokenizer {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { pattern, tokens, merges, specials, whole_pieces, post_processor } = parts;
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
        Ok(Self {
            pattern,
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
    pub fn pattern(&self) -> Pattern {
        self.pattern
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

    pub(crate) fn merges(&self) -> &[Merge] {
        &self.merges
    }

    pub(crate) fn takes_whole_pieces(&self) -> bool {
        self.whole_pieces.is_some()
    }

    pub(crate) fn post_processor(&self) -> Option<&str> {
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
            }
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    /// The ids of a text, which need not be UTF-8. `T` must hold the vocabulary's.
    pub fn encode<T: Id>(
        &self,
        text: &[u8],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Vec<T>, Error> {
        let rules = self.specials.rules(allowed, disallowed)?;
        let room = if text.len() <= SMALL { text.len() } else { text.len() / 4 };
        let mut ids = Vec::with_capacity(room + cache::INLINE);
        self.with_workspace(|workspace| self.encode_into(text, &rules, workspace, cancel, &mut ids))?;
        Ok(ids)
    }

    /// The ids of many texts, on all threads of the current rayon pool.
    pub fn encode_batch<T: Id>(
        &self,
        texts: &[&[u8]],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Encoded<T>, Error> {
        let rules = self.specials.rules(allowed, disallowed)?;
        let total: usize = texts.iter().map(|text| text.len()).sum();
        let threads = rayon::current_num_threads();
        let size = if threads == 1 { usize::MAX } else { BATCH.max(total / (threads * PARTS)) };
        let units = self.units(texts, &rules, size);
        let mut parts: Vec<Encoded<T>> = batches(&units, size)
            .into_par_iter()
            .map(|batch| self.encode_part(batch, &rules, cancel))
            .collect::<Result<_, _>>()?;
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        let mut start = 0;
        for part in &parts {
            offsets.extend(part.offsets.iter().map(|end| start + end));
            start += part.ids.len() as i64;
        }
        let ids = if parts.len() == 1 { std::mem::take(&mut parts[0].ids) } else { joined(&parts, start as usize) };
        Ok(Encoded { ids, offsets })
    }

    /// [`Tokenizer::encode_batch`] on this thread alone.
    pub fn encode_few<T: Id>(
        &self,
        texts: &[&[u8]],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Encoded<T>, Error> {
        let rules = self.specials.rules(allowed, disallowed)?;
        let mut encoded = self.encode_part(&self.units(texts, &rules, usize::MAX), &rules, cancel)?;
        encoded.offsets.insert(0, 0);
        Ok(encoded)
    }

    /// The texts, long ones cut into parts of about `size` where that changes nothing.
    fn units<'t>(&self, texts: &[&'t [u8]], rules: &Rules<'_>, size: usize) -> Vec<Unit<'t>> {
        let mut units = Vec::with_capacity(texts.len());
        for &text in texts {
            let mut start = 0;
            if rules.parsed().is_none() {
                while text.len() - start > size.saturating_mul(2) {
                    let end = self.pattern.safe_start(text, start + size);
                    if end >= text.len() {
                        break;
                    }
                    units.push(Unit { text, start, end });
                    start = end;
                }
            }
            units.push(Unit { text, start, end: text.len() });
        }
        units
    }

    /// As [`Encoded`], but that `offsets` holds each text's end alone.
    fn encode_part<T: Id>(&self, units: &[Unit<'_>], rules: &Rules<'_>, cancel: &Cancel) -> Result<Encoded<T>, Error> {
        let bytes: usize = units.iter().map(|unit| unit.end - unit.start).sum();
        let ids = Vec::with_capacity(bytes / 4 + cache::INLINE);
        let mut part = Encoded { ids, offsets: Vec::with_capacity(units.len()) };
        self.with_workspace(|workspace| {
            for unit in units {
                if unit.start == 0 {
                    rules.check(unit.text)?;
                }
                self.encode_parsed(&unit.text[unit.start..unit.end], rules, workspace, cancel, &mut part.ids)?;
                if unit.end == unit.text.len() {
                    part.offsets.push(part.ids.len() as i64);
                }
            }
            Ok(())
        })?;
        Ok(part)
    }

    fn encode_into<T: Id>(
        &self,
        text: &[u8],
        rules: &Rules<'_>,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        rules.check(text)?;
        self.encode_parsed(text, rules, workspace, cancel, out)
    }

    fn encode_parsed<T: Id>(
        &self,
        text: &[u8],
        rules: &Rules<'_>,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        let mut at = 0;
        if let Some(search) = rules.parsed() {
            while let Some((start, end, id)) = search.find(text, at) {
                self.encode_ordinary(&text[at..start], workspace, cancel, out)?;
                out.push(T::from_id(id));
                at = end;
            }
        }
        self.encode_ordinary(&text[at..], workspace, cancel, out)
    }

    fn encode_ordinary<T: Id>(
        &self,
        text: &[u8],
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        let mut at = 0;
        while at < text.len() {
            cancel.check()?;
            let count = self.pattern.piece_ends(text, at, &mut workspace.ends);
            self.encode_pieces(text, at, count, workspace, cancel, out)?;
            at = workspace.ends[count - 1];
        }
        Ok(())
    }

    /// Encodes the pre-tokens from `at` to the `count` ends in the workspace. All places in the cache are found, and
    /// asked for, before the first is read: memory answers them side by side.
    fn encode_pieces<T: Id>(
        &self,
        text: &[u8],
        at: usize,
        count: usize,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        let Workspace { cache, scratch, ids, ends, keys } = workspace;
        let (ends, keys) = (&ends[..count], &mut keys[..count]);
        cache.grow();
        let mut start = at;
        for (slot, &end) in keys.iter_mut().zip(ends) {
            let length = end - start;
            *slot = if length <= cache::SHORT {
                let key = cache::key(text, start, length);
                let place = cache.place(key);
                cache.prefetch(place);
                (key, place)
            } else {
                (0, 0)
            };
            start = end;
        }
        out.reserve(start - at + cache::INLINE);
        let mut start = at;
        for (&(key, place), &end) in keys.iter().zip(ends) {
            if key != 0
                && let Some(known) = cache.get(place, key)
            {
                debug_assert!(out.capacity() - out.len() >= cache::INLINE);
                // SAFETY: room for an id for each byte and INLINE more was reserved, and no piece has more ids than
                // bytes, so INLINE ids can be written wherever the last one stands.
                unsafe {
                    let next = out.as_mut_ptr().add(out.len());
                    next.write(T::from_id(known.get(0)));
                    next.add(1).write(T::from_id(known.get(1)));
                    if known.count() > 2 {
                        next.add(2).write(T::from_id(known.get(2)));
                        next.add(3).write(T::from_id(known.get(3)));
                        next.add(4).write(T::from_id(known.get(4)));
                    }
                    out.set_len(out.len() + known.count());
                }
            } else {
                let piece = &text[start..end];
                if key != 0
                    && let Some(known) = cache.get_moved(place, key)
                {
                    out.extend((0..known.count()).map(|index| T::from_id(known.get(index as u32))));
                } else if let Some(known) = cache.get_long(piece) {
                    out.extend(known.iter().map(|&id| T::from_id(id)));
                } else {
                    ids.clear();
                    self.encode_piece(piece, scratch, cancel, ids)?;
                    if key == 0 || !cache.put(key, ids) {
                        cache.put_long(piece, ids);
                    }
                    out.extend(ids.iter().map(|&id| T::from_id(id)));
                }
            }
            start = end;
        }
        Ok(())
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
        let mut workspace = idle.unwrap_or_else(Workspace::new);
        let result = work(&mut workspace);
        workspace.scratch.shrink();
        workspace.ids.shrink_to(MOST_IDS);
        if let Ok(mut idle) = self.idle.try_lock()
            && idle.len() < MOST_IDLE
        {
            idle.push(workspace);
        }
        result
    }

    /// The bytes that the ids stand for.
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(ids.len() * 5);
        for &id in ids {
            if !self.vocabulary.append(id, &mut bytes) {
                bytes.extend_from_slice(self.token(id)?);
            }
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

/// A part of a text.
struct Unit<'t> {
    text: &'t [u8],
    start: usize,
    end: usize,
}

/// Neighbouring units, in groups of about `size` bytes.
fn batches<'a, 't>(units: &'a [Unit<'t>], size: usize) -> Vec<&'a [Unit<'t>]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, unit) in units.iter().enumerate() {
        bytes += unit.end - unit.start + 64;
        if bytes >= size {
            batches.push(&units[start..=index]);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < units.len() {
        batches.push(&units[start..]);
    }
    batches
}

/// The ids of all parts, `total` of them, copied by all threads.
fn joined<T: Id>(parts: &[Encoded<T>], total: usize) -> Vec<T> {
    let mut ids = Vec::with_capacity(total);
    let mut rest = ids.spare_capacity_mut();
    let mut copies = Vec::with_capacity(parts.len());
    for part in parts {
        let (room, later) = rest.split_at_mut(part.ids.len());
        copies.push((room, &part.ids));
        rest = later;
    }
    copies.into_par_iter().for_each(|(room, ids)| {
        for (place, &id) in room.iter_mut().zip(ids) {
            place.write(id);
        }
    });
    // SAFETY: the parts hold `total` ids, and each was written.
    unsafe { ids.set_len(total) };
    ids
}
