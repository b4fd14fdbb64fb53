//! The settings of one row.

use crate::error::SamplerError;

/// How the tokens of one row are chosen. docs/sampling.md has the definition of each stage and its source.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the highest logit, ties going to the lowest id.
    pub temperature: f64,
    /// Keep tokens within this many standard deviations below the highest logit; 0 keeps all.
    pub top_n_sigma: f64,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most probable tokens that together hold this probability; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this many times as probable as the most probable one; 0 keeps all.
    pub min_p: f64,
    /// Keep the tokens of the most typical surprise that together hold this probability; 1 keeps all.
    pub typical_p: f64,
    /// How often the most probable tokens are left out; 0 never.
    pub xtc_probability: f64,
    /// From which probability on a token is one of them.
    pub xtc_threshold: f64,
    /// The surprise per token, in bits, that is aimed at; 0 aims at none.
    pub mirostat_tau: f64,
    /// How fast the limit on surprise follows.
    pub mirostat_eta: f64,
    /// What a token's bias adds to its logit.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive and multiplies negative logits of tokens of the prompt and of those written; 1 changes none.
    pub repetition_penalty: f64,
    /// Taken off the logits of tokens that have been written.
    pub presence_penalty: f64,
    /// The same once for each time.
    pub frequency_penalty: f64,
    /// Scale of the penalty on tokens that would go on with a repetition; 0 takes off none.
    pub dry_multiplier: f64,
    /// What one token more of repetition multiplies that penalty by.
    pub dry_base: f64,
    /// The shortest repetition that is penalised.
    pub dry_allowed_length: usize,
    /// How many tokens back are looked at; 0: all.
    pub dry_range: usize,
    /// Tokens over which no repetition reaches.
    pub dry_breakers: Vec<u32>,
    /// No run of this many tokens comes twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Tokens that are never chosen.
    pub banned_ids: Vec<u32>,
    /// Sequences that are never completed.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// The tokens that the row starts with, whatever its logits.
    pub forced_ids: Vec<u32>,
    /// Before this many tokens have been chosen none of `end_ids` is.
    pub min_new_tokens: u64,
    /// The tokens that end a text.
    pub end_ids: Vec<u32>,
    /// How many of the most probable tokens are reported with their log-probabilities.
    pub logprobs: usize,
    /// Which random sequence the row follows.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_n_sigma: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat_tau: 0.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_range: 0,
            dry_breakers: Vec::new(),
            no_repeat_ngram_size: 0,
            banned_ids: Vec::new(),
            bad_words_ids: Vec::new(),
            forced_ids: Vec::new(),
            min_new_tokens: 0,
            end_ids: Vec::new(),
            logprobs: 0,
            seed: 0,
        }
    }
}

const SHARE: &str = "0 to 1";
const NOT_NEGATIVE: &str = "a finite number, 0 or more";
const FINITE: &str = "a finite number";

impl SamplingParams {
    /// Checks every setting of row number `row` of a sampler for `vocab_size` tokens.
    pub(crate) fn check(&self, row: usize, vocab_size: usize) -> Result<(), SamplerError> {
        let reals = [
            ("temperature", self.temperature, NOT_NEGATIVE),
            ("top_n_sigma", self.top_n_sigma, NOT_NEGATIVE),
            ("top_p", self.top_p, SHARE),
            ("min_p", self.min_p, SHARE),
            ("typical_p", self.typical_p, SHARE),
            ("xtc_probability", self.xtc_probability, SHARE),
            ("xtc_threshold", self.xtc_threshold, SHARE),
            ("mirostat_tau", self.mirostat_tau, NOT_NEGATIVE),
            ("mirostat_eta", self.mirostat_eta, NOT_NEGATIVE),
            ("presence_penalty", self.presence_penalty, FINITE),
            ("frequency_penalty", self.frequency_penalty, FINITE),
            ("dry_multiplier", self.dry_multiplier, NOT_NEGATIVE),
        ];
        for (field, value, limit) in reals {
            let allowed = match limit {
                SHARE => (0.0..=1.0).contains(&value),
                NOT_NEGATIVE => value >= 0.0 && value.is_finite(),
                _ => value.is_finite(),
            };
            refuse(!allowed, row, field, value, limit)?;
        }
        for (field, value) in [("repetition_penalty", self.repetition_penalty), ("dry_base", self.dry_base)] {
            let allowed = value > 0.0 && value.is_finite();
            refuse(!allowed, row, field, value, "a finite number above 0")?;
        }
        refuse(self.dry_allowed_length == 0, row, "dry_allowed_length", 0.0, "1 or more")?;
        self.check_ids(row, vocab_size)
    }

    fn check_ids(&self, row: usize, vocab_size: usize) -> Result<(), SamplerError> {
        for (index, &(id, bias)) in self.logit_bias.iter().enumerate() {
            check_id(id, row, "logit_bias", index, vocab_size)?;
            refuse(!bias.is_finite(), row, "logit_bias", f64::from(bias), FINITE)?;
        }
        let lists = [
            ("dry_breakers", &self.dry_breakers),
            ("banned_ids", &self.banned_ids),
            ("forced_ids", &self.forced_ids),
            ("end_ids", &self.end_ids),
        ];
        for (field, ids) in lists {
            for (index, &id) in ids.iter().enumerate() {
                check_id(id, row, field, index, vocab_size)?;
            }
        }
        for (index, word) in self.bad_words_ids.iter().enumerate() {
            refuse(word.is_empty(), row, "bad_words_ids", index as f64, "sequences of one id or more")?;
            for &id in word {
                check_id(id, row, "bad_words_ids", index, vocab_size)?;
            }
        }
        Ok(())
    }
}

fn refuse(refused: bool, row: usize, field: &'static str, value: f64, limit: &'static str) -> Result<(), SamplerError> {
    if refused { Err(SamplerError::Parameter { row, field, value, limit }) } else { Ok(()) }
}

fn check_id(id: u32, row: usize, field: &'static str, index: usize, vocab_size: usize) -> Result<(), SamplerError> {
    if (id as usize) < vocab_size {
        return Ok(());
    }
    Err(SamplerError::Id { row, field, index, id: u64::from(id), vocab_size })
}
