//! What changes single logits before the chain narrows the row: biases, penalties, bans.

use crate::history::History;
use crate::params::SamplingParams;

const NEVER: f32 = f32::NEG_INFINITY;

/// A token that would go on with a repetition, and how long that is.
pub type Continuation = (u32, usize);

/// The edits that one row's settings ask for.
#[derive(Clone, Debug)]
pub struct Edits {
    params: SamplingParams,
    penalises: bool,
}

impl Edits {
    /// Those that `params` ask for.
    pub fn new(params: &SamplingParams) -> Self {
        let mut params = params.clone();
        params.dry_breakers.sort_unstable();
        let penalises =
            params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        Self { params, penalises }
    }

    /// Whether some edit depends on prompt or text.
    pub fn look_back(&self) -> bool {
        let params = &self.params;
        let words = params.bad_words_ids.iter().any(|word| word.len() > 1);
        self.penalises || params.dry_multiplier > 0.0 || params.no_repeat_ngram_size > 0 || words
    }

    /// Whether there is anything to do at `step`.
    pub fn apply_at(&self, step: u64) -> bool {
        let params = &self.params;
        let lists = !(params.logit_bias.is_empty() && params.banned_ids.is_empty() && params.bad_words_ids.is_empty());
        lists || self.look_back() || self.masks_ends(step)
    }

    /// Edits the row's `logits` in the order of the documentation.
    pub fn apply(&self, logits: &mut [f32], history: &History, step: u64, found: &mut Vec<Continuation>) {
        let params = &self.params;
        for &(id, bias) in &params.logit_bias {
            edit(logits, id, |logit| logit + bias);
        }
        if self.penalises {
            self.penalise(logits, history);
        }
        if params.dry_multiplier > 0.0 {
            self.penalise_repetitions(logits, history, found);
        }
        self.ban(logits, history, step);
    }

    /// Keskar et al. 2019 (section 4.1) for the repetition penalty; the other two are OpenAI's.
    fn penalise(&self, logits: &mut [f32], history: &History) {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.params;
        let [factor, inverse] =
            [repetition_penalty, 1.0 / repetition_penalty].map(|x| x.min(f64::from(f32::MAX)) as f32);
        for seen in history.seen() {
            let presence = if seen.written > 0 { presence_penalty } else { 0.0 };
            let taken_off = (presence + frequency_penalty * f64::from(seen.written)) as f32;
            edit(logits, seen.id, |logit| logit * if logit > 0.0 { inverse } else { factor } - taken_off);
        }
    }

    /// DRY: a token that would make a repetition one longer loses multiplier * base^(length - allowed length).
    fn penalise_repetitions(&self, logits: &mut [f32], history: &History, found: &mut Vec<Continuation>) {
        let SamplingParams { dry_multiplier, dry_base, dry_allowed_length, ref dry_breakers, .. } = self.params;
        let is_breaker = |id: &u32| dry_breakers.binary_search(id).is_ok();
        let range = if self.params.dry_range == 0 { usize::MAX } else { self.params.dry_range };
        let reach = history.ids().iter().rev().take(range).take_while(|id| !is_breaker(id)).count();
        found.clear();
        if reach < dry_allowed_length {
            return;
        }
        for (place, (id, length)) in history.continuations().enumerate().take(range.saturating_sub(1)) {
            // Neither copy reaches over a breaker or out of the range.
            let length = length.min(reach).min(range - 1 - place);
            if length >= dry_allowed_length && !is_breaker(&id) {
                found.push((id, length));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.dedup_by_key(|&mut (id, _)| id);
        for &(id, length) in found.iter() {
            let exponent = i32::try_from(length - dry_allowed_length).unwrap_or(i32::MAX);
            let penalty = dry_multiplier * dry_base.powi(exponent);
            edit(logits, id, |logit| logit - penalty.min(f64::from(f32::MAX)) as f32);
        }
    }

    fn ban(&self, logits: &mut [f32], history: &History, step: u64) {
        let params = &self.params;
        for &id in &params.banned_ids {
            logits[id as usize] = NEVER;
        }
        for word in &params.bad_words_ids {
            if let Some((&last, before)) = word.split_last()
                && history.ends_with(before)
            {
                logits[last as usize] = NEVER;
            }
        }
        match params.no_repeat_ngram_size {
            0 => {}
            1 => history.seen().iter().for_each(|seen| logits[seen.id as usize] = NEVER),
            size => {
                let repeated = history.continuations().filter(|&(_, length)| length >= size - 1);
                repeated.for_each(|(id, _)| logits[id as usize] = NEVER);
            }
        }
        if self.masks_ends(step) {
            params.end_ids.iter().for_each(|&id| logits[id as usize] = NEVER);
        }
    }

    fn masks_ends(&self, step: u64) -> bool {
        step < self.params.min_new_tokens && !self.params.end_ids.is_empty()
    }
}

/// Changes one logit. What overflows stays finite: no edit makes a token certain, and only a ban makes it impossible.
fn edit(logits: &mut [f32], id: u32, change: impl FnOnce(f32) -> f32) {
    let logit = &mut logits[id as usize];
    if *logit > NEVER {
        *logit = change(*logit).clamp(f32::MIN, f32::MAX);
    }
}

/// Bans each token of the row whose bit of `mask` is 0.
pub fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    for (word, logits) in mask.iter().zip(logits.chunks_mut(32)) {
        if *word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            *logit = if word >> bit & 1 == 1 { *logit } else { NEVER };
        }
    }
}

/// Whether `mask` allows token `id`.
pub fn allows(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}
