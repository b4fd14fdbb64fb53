//! One row: its settings, its place in its random sequence, its buffers.

use crate::candidates::{Buffers, Candidates};
use crate::error::{Fault, SamplerError};
use crate::rng;
use crate::stages::Stage;

/// How the tokens of one row are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the highest logit, ties going to the lowest id.
    pub temperature: f64,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most probable tokens that together hold this probability; 1 keeps all.
    pub top_p: f64,
    /// Which random sequence the row follows.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl SamplingParams {
    fn check(&self, row: usize) -> Result<(), SamplerError> {
        let Self { temperature, top_p, .. } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            let limit = "a finite number, 0 or more";
            return Err(SamplerError::Parameter { row, field: "temperature", value: temperature, limit });
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(SamplerError::Parameter { row, field: "top_p", value: top_p, limit: "0 to 1" });
        }
        Ok(())
    }
}

/// The token chosen for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: i32,
    /// Its log-probability under the logits as given, where asked for; else NaN.
    pub log_probability: f32,
}

/// A row of the sampler.
#[derive(Clone, Debug)]
pub struct Row {
    seed: u64,
    greedy: bool,
    inverse_temperature: f32,
    stages: Vec<Stage>,
    buffers: Buffers,
    /// How many tokens have been chosen.
    pub step: u64,
}

impl Row {
    /// Row number `row`, at step 0.
    pub fn new(row: usize, params: &SamplingParams) -> Result<Self, SamplerError> {
        params.check(row)?;
        let greedy = params.temperature == 0.0;
        let stages = if greedy { Vec::new() } else { Stage::chain(params) };
        Ok(Self {
            seed: params.seed,
            greedy,
            // A temperature so small that its inverse overflows still has to give 0 * finite for the highest logit.
            inverse_temperature: (1.0 / params.temperature).min(f64::from(f32::MAX)) as f32,
            stages,
            buffers: Buffers::default(),
            step: 0,
        })
    }

    /// Chooses a token for the current step. The step is not advanced: the sampler does that for all rows together.
    pub fn choose(&mut self, logits: &[f32], want_log_probability: bool) -> Result<Choice, Fault> {
        let mut candidates = Candidates::scan(logits, self.inverse_temperature, &mut self.buffers)?;
        let id = if self.greedy {
            candidates.best()
        } else {
            for stage in &self.stages {
                stage.apply(&mut candidates);
            }
            candidates.draw(rng::uniform(self.seed, self.step))
        };
        let log_probability = if want_log_probability { candidates.log_probability(id) } else { f32::NAN };
        Ok(Choice { id: id as i32, log_probability })
    }
}
