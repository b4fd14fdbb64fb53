//! From text to ids: pre-tokens, what the cache knows of them, merges for the rest.

use crate::cache::{self, Cache, Key};
use crate::front::{Chosen, Part, Piece};
use crate::longest::Trail;
use crate::merges::Scratch;
use crate::pretokenize::ENDS;
use crate::seams::{self, Seams};
use crate::special::{Allowed, Rules};
use crate::tokenizer::Tokenizer;
use crate::{Cancel, Error};

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

/// What to look for in the texts of a call besides ordinary text.
pub(crate) struct Plan<'a> {
    pub rules: Rules<'a>,
    pub chosen: Option<Chosen<'a>>,
}

/// What one thread needs to encode; kept between calls for its cache.
#[derive(Debug)]
pub(crate) struct Workspace {
    cache: Cache,
    scratch: Scratch,
    trail: Trail,
    ids: Vec<u32>,
    /// Of a whole text, see [`Tokenizer::encode_brief`].
    brief: Vec<u32>,
    ends: [usize; ENDS],
    /// What the cache knows pre-tokens, or parts of them, by.
    keys: [Key; ENDS],
}

impl Workspace {
    fn new() -> Box<Self> {
        let (cache, scratch, trail) = (Cache::new(), Scratch::default(), Trail::default());
        Box::new(Self {
            cache,
            scratch,
            trail,
            ids: Vec::new(),
            brief: Vec::new(),
            ends: [0; ENDS],
            keys: [Key::default(); ENDS],
        })
    }
}

/// Workspaces kept for later calls: more threads than this pay for a new cache.
const MOST_IDLE: usize = 64;
/// Ids of one pre-token that a workspace keeps room for.
const MOST_IDS: usize = 1 << 16;
/// Text in languages that a vocabulary knows well has more; room that is not used is not touched.
pub(crate) const BYTES_AN_ID: usize = 3;
/// Whether a pre-token that the cache does not know may have parts that it knows: not one that has been parted, and
/// not one of ASCII letters, of which every two may be neighbours in a token.
fn worth_parting(piece: &[u8]) -> bool {
    piece.len() > 8 && !seams::may_be_in(piece) && !piece.is_ascii()
}

impl Tokenizer {
    /// The ids of a text, which need not be UTF-8. `T` must hold the vocabulary's.
    pub fn encode<T: Id>(
        &self,
        text: &[u8],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
    ) -> Result<Vec<T>, Error> {
        let plan = self.plan(allowed, disallowed)?;
        let mut ids = Vec::with_capacity(text.len() / BYTES_AN_ID + cache::FEW);
        self.with_workspace(|workspace| self.encode_planned(text, &plan, workspace, cancel, &mut ids))?;
        Ok(ids)
    }

    /// What `give` makes of the ids of a text, which lie in memory that is kept for the next call: a short text is
    /// encoded faster than memory is had.
    pub fn encode_brief<R>(
        &self,
        text: &[u8],
        allowed: &Allowed,
        disallowed: &Allowed,
        cancel: &Cancel,
        give: impl FnOnce(&[u32]) -> R,
    ) -> Result<R, Error> {
        let plan = self.plan(allowed, disallowed)?;
        self.with_workspace(|workspace| {
            let mut ids = std::mem::take(&mut workspace.brief);
            ids.clear();
            let result = self.encode_planned(text, &plan, workspace, cancel, &mut ids).map(|()| give(&ids));
            ids.shrink_to(MOST_IDS);
            workspace.brief = ids;
            result
        })
    }

    /// Appends the ids of ordinary text.
    pub(crate) fn encode_text(&self, text: &[u8], cancel: &Cancel, out: &mut Vec<u32>) -> Result<(), Error> {
        self.with_workspace(|workspace| self.encode_ordinary(text, workspace, cancel, out))
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

    pub(crate) fn encode_planned<T: Id>(
        &self,
        text: &[u8],
        plan: &Plan<'_>,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        if plan.chosen.is_none() && plan.rules.parsed().is_none() {
            plan.rules.check(text)?;
            return self.encode_ordinary(text, workspace, cancel, out);
        }
        self.walk(text, plan, cancel, |part, piece| match piece {
            Piece::Token { id, .. } => {
                out.push(T::from_id(id));
                Ok(())
            }
            Piece::Text { start, end } => self.encode_ordinary(&part.text[start..end], workspace, cancel, out),
        })
    }

    pub(crate) fn encode_ordinary<T: Id>(
        &self,
        text: &[u8],
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        if let Some(missing) = self.missing.as_ref().filter(|missing| missing.stand_in(text)) {
            return self
                .encode_without(missing, text, cancel, &mut |ids| out.extend(ids.iter().map(|&id| T::from_id(id))));
        }
        if let Some(cutter) = self.pattern().cutter() {
            let (mut at, mut count) = (0, 0);
            cutter.cut(text, cancel, &mut |_, end| {
                workspace.ends[count] = end;
                count += 1;
                if count == ENDS {
                    self.encode_pieces(text, at, count, workspace, cancel, out)?;
                    (at, count) = (end, 0);
                }
                Ok(())
            })?;
            return self.encode_pieces(text, at, count, workspace, cancel, out);
        }
        let mut at = 0;
        while at < text.len() {
            cancel.check()?;
            let count = self.pattern().piece_ends(text, at, &mut workspace.ends);
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
        workspace.cache.grow();
        let (mut start, mut from, mut index, mut known) = (at, at, 0, 0);
        while index < count {
            let Workspace { cache, ends, keys, .. } = &mut *workspace;
            let short = cache.set_keys(text, start, &ends[index..count], &mut keys[known..]);
            (index, known) = (index + short, known + short);
            if short > 0 {
                start = ends[index - 1];
            }
            // The next one may have parts, which take more room than it.
            let end = if index < count && known < ENDS { ends[index] } else { start };
            let seams = self.seams.as_ref().filter(|_| seams::may_be_in(&text[start..end]));
            while start < end && known < ENDS {
                let part_end = seams.map_or(end, |seams| start + seams.next(&text[start..end]));
                cache.set_key(text, start, part_end, &mut keys[known]);
                known += 1;
                start = part_end;
            }
            if index < count && start == ends[index] {
                index += 1;
            }
            if known == ENDS {
                self.encode_keyed(text, from, known, workspace, cancel, out)?;
                (from, known) = (start, 0);
            }
        }
        self.encode_keyed(text, from, known, workspace, cancel, out)
    }

    fn encode_keyed<T: Id>(
        &self,
        text: &[u8],
        mut start: usize,
        count: usize,
        workspace: &mut Workspace,
        cancel: &Cancel,
        out: &mut Vec<T>,
    ) -> Result<(), Error> {
        let Workspace { cache, scratch, trail, ids, keys, .. } = workspace;
        let mut keys = &keys[..count];
        out.reserve(keys.last().map_or(0, |last| last.end - start) + cache::FEW);
        while !keys.is_empty() {
            debug_assert!(out.capacity() - out.len() >= keys[keys.len() - 1].end - start + cache::FEW);
            // SAFETY: there is room for an id for each byte that is left, and FEW more: as much was reserved, and no
            // pre-token has more ids than bytes.
            let (found, written) = unsafe { cache.get_run(keys, out.as_mut_ptr().add(out.len()), T::from_id) };
            // SAFETY: so many were written.
            unsafe { out.set_len(out.len() + written) };
            if found > 0 {
                start = keys[found - 1].end;
            }
            let Some(key) = keys.get(found) else { break };
            let piece = &text[start..key.end];
            if let Some((known, count)) = cache.get(key, piece.len()) {
                out.extend(known[..count].iter().map(|&id| T::from_id(id & cache::ID_MASK)));
            } else {
                ids.clear();
                match self.seams.as_ref().filter(|_| worth_parting(piece)) {
                    Some(seams) => self.encode_parts(piece, seams, cache, (scratch, trail), cancel, ids)?,
                    None => self.encode_piece(piece, (scratch, trail), cancel, ids)?,
                }
                cache.put(key, piece.len(), ids);
                out.extend(ids.iter().map(|&id| T::from_id(id)));
            }
            start = key.end;
            keys = &keys[found + 1..];
        }
        Ok(())
    }

    /// Encodes a pre-token by its parts, of which the cache may know some.
    fn encode_parts(
        &self,
        piece: &[u8],
        seams: &Seams,
        cache: &mut Cache,
        (scratch, trail): (&mut Scratch, &mut Trail),
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let mut start = 0;
        while start < piece.len() {
            let end = start + seams.next(&piece[start..]);
            let mut key = Key::default();
            cache.set_key(piece, start, end, &mut key);
            if let Some((known, count)) = cache.get_any(&key, end - start) {
                out.extend(known[..count].iter().map(|&id| id & cache::ID_MASK));
            } else {
                let from = out.len();
                self.encode_piece(&piece[start..end], (scratch, trail), cancel, out)?;
                if end - start < piece.len() {
                    cache.put(&key, end - start, &out[from..]);
                }
            }
            start = end;
        }
        Ok(())
    }

    pub(crate) fn encode_piece(
        &self,
        piece: &[u8],
        (scratch, trail): (&mut Scratch, &mut Trail),
        cancel: &Cancel,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        if self.whole_pieces
            && self.longest.has_unmade()
            && let Some(id) = self.longest.whole(piece)
        {
            out.push(id);
            return Ok(());
        }
        if self.longest.encode(&self.table, piece, trail, cancel, out)? {
            return Ok(());
        }
        self.table.merge(piece, &self.byte_ids, scratch, cancel, out)
    }

    /// Lends a workspace. A lock that is not free at once is not waited for: it may be a forked child's copy of one
    /// that a thread of the parent held.
    pub(crate) fn with_workspace<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut workspace = idle.unwrap_or_else(Workspace::new);
        let result = work(&mut workspace);
        workspace.scratch.shrink();
        workspace.trail.shrink();
        workspace.ids.shrink_to(MOST_IDS);
        if let Ok(mut idle) = self.idle.try_lock()
            && idle.len() < MOST_IDLE
        {
            idle.push(workspace);
        }
        result
    }
}
