//! The settings of a search.

use super::error::BeamError;

/// Most beams a prompt can have.
pub const MAX_BEAMS: usize = 1024;
/// Beyond it a length to that power leaves the range of doubles.
const MAX_LENGTH_PENALTY: f64 = 16.0;
/// More than any difference of log-probabilities of float32 logits that a search can tell from impossible.
const MAX_DIVERSITY_PENALTY: f64 = 1e9;
/// Most tokens that can end a text.
pub const MAX_END_IDS: usize = 256;

/// When a group of beams is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as it has as many ended texts as beams.
    Full,
    /// When, besides, the best running beam would score no better than the worst ended text if it ended now.
    Estimate,
    /// When, besides, no running beam can come to score better than the worst ended text.
    Never,
}

/// How texts are searched; `docs/beam.md` defines each.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamParams {
    /// Beams of a prompt, in all its groups together.
    pub num_beams: usize,
    /// Most texts given for a prompt.
    pub num_return: usize,
    /// A text of n tokens scores the sum of its log-probabilities / n^length_penalty.
    pub length_penalty: f64,
    /// When a group of beams is done.
    pub early_stopping: EarlyStopping,
    /// Groups of beams that are kept apart (Vijayakumar et al. 2018).
    pub num_beam_groups: usize,
    /// What a token costs a group for each beam of earlier groups that took it in the same step.
    pub diversity_penalty: f64,
    /// A text is over when it has so many tokens.
    pub max_new_tokens: usize,
    /// No end before so many tokens.
    pub min_new_tokens: usize,
    /// No run of so many tokens comes twice in prompt and text; 0: any may.
    pub no_repeat_ngram_size: usize,
    /// Tokens that end a text.
    pub end_ids: Vec<u32>,
    /// Runs of tokens that may not come.
    pub bad_words: Vec<Vec<u32>>,
}

impl Default for BeamParams {
    fn default() -> Self {
        Self {
            num_beams: 4,
            num_return: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Estimate,
            num_beam_groups: 1,
            diversity_penalty: 0.0,
            max_new_tokens: 128,
            min_new_tokens: 0,
            no_repeat_ngram_size: 0,
            end_ids: Vec::new(),
            bad_words: Vec::new(),
        }
    }
}

impl BeamParams {
    /// Beams of one group.
    pub(super) fn group_size(&self) -> usize {
        self.num_beams / self.num_beam_groups
    }

    /// Continuations of a group that are looked at: so many that `group_size` do not end, even if every beam takes
    /// every end token.
    pub(super) fn reach(&self) -> usize {
        self.group_size() * (1 + self.end_ids.len()).max(2)
    }

    /// The score of a text of `length` tokens whose log-probabilities sum to `sum`.
    pub(super) fn score(&self, sum: f64, length: usize) -> f64 {
        sum / (length as f64).powf(self.length_penalty)
    }

    pub(super) fn check(&self, vocab_size: usize) -> Result<(), BeamError> {
        let check = |good: bool, field: &'static str, value: &dyn ToString, limit: &dyn Fn() -> String| {
            let wrong = || BeamError::Parameter { field, value: value.to_string(), limit: limit() };
            if good { Ok(()) } else { Err(wrong()) }
        };
        let (beams, groups) = (self.num_beams, self.num_beam_groups);
        let ids = || format!("1 to {}", i32::MAX);
        check(vocab_size > 0 && i32::try_from(vocab_size).is_ok(), "vocab_size", &vocab_size, &ids)?;
        check((1..=MAX_BEAMS).contains(&beams), "num_beams", &beams, &|| format!("1 to {MAX_BEAMS}"))?;
        check((1..=beams).contains(&self.num_return), "num_return", &self.num_return, &|| {
            format!("1 to num_beams={beams}")
        })?;
        check((1..=beams).contains(&groups) && beams.is_multiple_of(groups), "num_beam_groups", &groups, &|| {
            format!("a divisor of num_beams={beams}")
        })?;
        let penalty = self.length_penalty;
        check(penalty.abs() <= MAX_LENGTH_PENALTY, "length_penalty", &penalty, &|| {
            format!("a number from -{MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}")
        })?;
        let penalty = self.diversity_penalty;
        check((0.0..=MAX_DIVERSITY_PENALTY).contains(&penalty), "diversity_penalty", &penalty, &|| {
            format!("a number from 0 to {MAX_DIVERSITY_PENALTY}")
        })?;
        check(self.max_new_tokens > 0, "max_new_tokens", &self.max_new_tokens, &|| "1 or more".into())?;
        check(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", &self.min_new_tokens, &|| {
            format!("at most max_new_tokens={}", self.max_new_tokens)
        })?;
        check(self.end_ids.len() <= MAX_END_IDS, "end_ids", &format!("{} ids", self.end_ids.len()), &|| {
            format!("at most {MAX_END_IDS}")
        })?;
        check_ids("end_ids", &self.end_ids, vocab_size)?;
        for word in &self.bad_words {
            check(!word.is_empty(), "bad_words", &"[]", &|| "non-empty lists of ids".into())?;
            check_ids("bad_words", word, vocab_size)?;
            check(word.len() > 1 || !self.end_ids.contains(&word[0]), "bad_words", &format!("{word:?}"), &|| {
                "no end id alone (min_new_tokens keeps a text from ending)".into()
            })?;
        }
        Ok(())
    }
}

pub(super) fn check_ids(field: &'static str, ids: &[u32], vocab_size: usize) -> Result<(), BeamError> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => {
            let limit = format!("ids from 0 to {}", vocab_size - 1);
            Err(BeamError::Parameter { field, value: id.to_string(), limit })
        }
        None => Ok(()),
    }
}
