//! Where texts stand in their grammars, and the masks of what may come next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::error::{ConstraintError, limit};

/// Where a text stands in its grammar. A clone goes its own way from there, and shares what has been computed.
#[derive(Clone)]
pub struct Matcher {
    inner: llguidance::Matcher,
    size: usize,
    end_ids: Arc<[u32]>,
    is_ended: bool,
}

impl Matcher {
    /// At the beginning of a text; `inner` has been compiled without an error, for `size` tokens and the end.
    pub(super) fn new(inner: llguidance::Matcher, size: usize, end_ids: Arc<[u32]>) -> Self {
        Self { inner, size, end_ids, is_ended: false }
    }

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
