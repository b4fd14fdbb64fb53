//! One row: its settings, its place in its random sequence, what it has written.

use crate::candidates::{Buffers, Candidates};
use crate::edits::{self, Continuation, Edits};
use crate::error::{Fault, SamplerError};
use crate::exp::scale;
use crate::history::History;
use crate::logits::Logits;
use crate::params::SamplingParams;
use crate::rng;
use crate::stages::Stage;

/// The token chosen for a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: i32,
    /// Its log-probability under the logits as given, where asked for; else NaN.
    pub log_probability: f32,
    /// Its surprise in bits, where mirostat asks for it.
    surprise: Option<f64>,
}

/// What the work on one row needs, kept between rows and steps.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    logits: Vec<f32>,
    buffers: Buffers,
    continuations: Vec<Continuation>,
}

/// A row of the sampler.
#[derive(Clone, Debug)]
pub struct Row {
    greedy: bool,
    /// How far apart logits are in powers of two, by the temperature.
    scale: f32,
    stages: Vec<Stage>,
    edits: Edits,
    history: History,
    forced: Vec<u32>,
    mirostat: Option<Mirostat>,
    seed: u64,
    step: u64,
    top_count: usize,
    top: Vec<(i32, f32)>,
}

impl Row {
    /// Row number `row`, at step 0.
    pub fn new(row: usize, params: &SamplingParams, vocab_size: usize) -> Result<Self, SamplerError> {
        params.check(row, vocab_size)?;
        let greedy = params.temperature == 0.0;
        Ok(Self {
            greedy,
            scale: scale(1.0 / params.temperature),
            stages: if greedy { Vec::new() } else { Stage::chain(params) },
            edits: Edits::new(params),
            history: History::default(),
            forced: params.forced_ids.clone(),
            mirostat: (params.mirostat_tau > 0.0).then(|| Mirostat::new(params)),
            seed: params.seed,
            step: 0,
            top_count: params.logprobs.min(vocab_size),
            top: Vec::new(),
        })
    }

    /// How many tokens have been chosen.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The most probable tokens of the last row looked at, with log-probabilities, where the settings ask for them.
    pub fn top(&self) -> &[(i32, f32)] {
        &self.top
    }

    /// Lets penalties know ids that were not written.
    pub fn add_prompt(&mut self, ids: &[u32]) {
        if self.edits.look_back() {
            self.history.add_prompt(ids);
        }
    }

    /// Chooses a token for the current step; [`accept`](Self::accept) goes on to the next.
    pub fn choose(
        &mut self,
        given: Logits<'_>,
        mask: Option<&[u32]>,
        want_log_probability: bool,
        workspace: &mut Workspace,
    ) -> Result<Choice, Fault> {
        self.top.clear();
        let Workspace { logits: buffer, buffers, continuations } = workspace;
        let mut candidates = Candidates::scan(given.read(buffer), self.scale, buffers)?;
        let log_total = if want_log_probability || self.top_count > 0 { candidates.log_total() } else { f64::NAN };
        let log_probability = |logit: f32| (f64::from(logit) - log_total) as f32;
        if self.top_count > 0 {
            candidates.copy_first(self.top_count, &mut self.top);
            candidates.restart();
            self.top.iter_mut().for_each(|(_, value)| *value = log_probability(*value));
        }
        let forced = usize::try_from(self.step).ok().and_then(|step| self.forced.get(step)).copied();
        let (id, surprise) = if let Some(id) = forced {
            if mask.is_some_and(|mask| !edits::allows(mask, id)) {
                return Err(Fault::Forced { id: id as usize });
            }
            (id as usize, None)
        } else if mask.is_none() && !self.edits.apply_at(self.step) {
            self.pick(candidates)
        } else {
            if let Logits::Float32(values) = given {
                buffer.clear();
                buffer.extend_from_slice(values);
            }
            if let Some(mask) = mask {
                edits::apply_mask(buffer, mask);
            }
            self.edits.apply(buffer, &self.history, self.step, continuations);
            let edited = Candidates::scan(buffer, self.scale, buffers);
            // The row as given has been found sound: what is wrong now is that nothing is left.
            self.pick(edited.map_err(|_| Fault::Banned)?)
        };
        Ok(Choice { id: id as i32, log_probability: log_probability(given.at(id)), surprise })
    }

    /// Goes on to the next step with what was chosen for this one.
    pub fn accept(&mut self, choice: &Choice) {
        self.step += 1;
        if self.edits.look_back() {
            self.history.push(choice.id as u32);
        }
        if let (Some(mirostat), Some(surprise)) = (&mut self.mirostat, choice.surprise) {
            mirostat.learn(surprise);
        }
    }

    /// A token, and its surprise where mirostat is on.
    fn pick(&self, mut candidates: Candidates<'_>) -> (usize, Option<f64>) {
        if self.greedy {
            return (candidates.best(), None);
        }
        let [uniform, second] = rng::uniforms(self.seed, self.step);
        for stage in &self.stages {
            stage.apply(&mut candidates, second);
        }
        let Some(mirostat) = &self.mirostat else { return (candidates.draw(uniform), None) };
        let log_total = candidates.keep_surprise(mirostat.limit);
        let id = candidates.draw(uniform);
        (id, Some(candidates.surprise(id, log_total)))
    }
}

/// Mirostat 2.0 (Basu et al. 2021, "Mirostat: a neural text decoding algorithm that directly controls perplexity",
/// algorithm 1 with the truncation by surprise of the authors' second version).
#[derive(Clone, Debug)]
struct Mirostat {
    target: f64,
    rate: f64,
    /// Tokens of more surprise, in bits, are left out.
    limit: f64,
}

impl Mirostat {
    fn new(params: &SamplingParams) -> Self {
        Self { target: params.mirostat_tau, rate: params.mirostat_eta, limit: 2.0 * params.mirostat_tau }
    }

    fn learn(&mut self, surprise: f64) {
        self.limit -= self.rate * (surprise - self.target);
    }
}
