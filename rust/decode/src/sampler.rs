//! The batch: rows in parallel over one block of logits.

use rayon::prelude::*;

use crate::error::{Fault, SamplerError};
use crate::row::{Choice, Row, SamplingParams};

/// Fewer logits than this are sampled on the calling thread: waking others would take longer.
const PARALLEL_FROM: usize = 1 << 15;

/// Chooses a token for each row of a batch; every row has its own settings, random sequence and buffers.
#[derive(Clone, Debug)]
pub struct Sampler {
    rows: Vec<Row>,
    outcomes: Vec<Result<Choice, Fault>>,
    choices: Vec<Choice>,
    vocab_size: usize,
}

impl Sampler {
    /// A sampler with one row for each of `params`, all at step 0.
    ///
    /// # Errors
    /// A setting is out of its range, or `vocab_size` is 0 or does not fit an i32.
    pub fn new(params: &[SamplingParams], vocab_size: usize) -> Result<Self, SamplerError> {
        if vocab_size == 0 || i32::try_from(vocab_size).is_err() {
            return Err(SamplerError::VocabSize { vocab_size });
        }
        let rows: Result<Vec<Row>, _> = params.iter().enumerate().map(|(row, params)| Row::new(row, params)).collect();
        Ok(Self { rows: rows?, outcomes: Vec::new(), choices: Vec::new(), vocab_size })
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many logits a row has.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many tokens each row has chosen.
    pub fn steps(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().map(|row| row.step)
    }

    /// Chooses a token for each row of `logits` (row-major, [rows, vocab_size]) and goes on to the next step.
    ///
    /// # Errors
    /// `logits` has another shape, or a row of it cannot be sampled (the first such row is named). Then no row goes on:
    /// the same call with that row mended, or dropped by [`select`](Self::select), gives the others what they would have had.
    pub fn sample(&mut self, logits: &[f32], want_log_probabilities: bool) -> Result<&[Choice], SamplerError> {
        let expected = self.rows.len().saturating_mul(self.vocab_size);
        if logits.len() != expected {
            return Err(SamplerError::Shape { given: logits.len(), expected });
        }
        self.outcomes.clear();
        self.outcomes.resize(self.rows.len(), Ok(Choice::default()));
        let choose = |((row, logits), outcome): ((&mut Row, &[f32]), &mut Result<Choice, Fault>)| {
            *outcome = row.choose(logits, want_log_probabilities);
        };
        if self.rows.len() > 1 && logits.len() >= PARALLEL_FROM {
            let rows = self.rows.par_iter_mut().zip(logits.par_chunks(self.vocab_size));
            rows.zip(&mut self.outcomes).for_each(choose);
        } else {
            let rows = self.rows.iter_mut().zip(logits.chunks(self.vocab_size));
            rows.zip(&mut self.outcomes).for_each(choose);
        }
        self.choices.clear();
        for (row, outcome) in self.outcomes.iter().enumerate() {
            self.choices.push(outcome.map_err(|fault| SamplerError::Logits { row, fault })?);
        }
        self.rows.iter_mut().for_each(|row| row.step += 1);
        Ok(&self.choices)
    }

    /// Makes the rows `selected` of this sampler its rows from now on. A row keeps its step; it may be named twice.
    ///
    /// # Errors
    /// A row does not exist; then nothing changes.
    pub fn select(&mut self, selected: &[usize]) -> Result<(), SamplerError> {
        let rows = self.rows.len();
        if let Some(&row) = selected.iter().find(|&&row| row >= rows) {
            return Err(SamplerError::NoSuchRow { row, rows });
        }
        if selected.windows(2).all(|pair| pair[0] < pair[1]) {
            // The common case, finished rows leaving, keeps the buffers where they are.
            let mut next = selected.iter().copied().peekable();
            let mut row = 0;
            self.rows.retain(|_| {
                let keep = next.next_if_eq(&row).is_some();
                row += 1;
                keep
            });
        } else {
            self.rows = selected.iter().filter_map(|&row| self.rows.get(row).cloned()).collect();
        }
        Ok(())
    }
}
