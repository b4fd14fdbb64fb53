//! The batch: rows in parallel over one block of logits.

use rayon::ThreadPool;

use crate::error::{Fault, SamplerError};
use crate::logits::Logits;
use crate::params::SamplingParams;
use crate::row::{Choice, Row, Workspace};
use crate::share::share;

/// Fewer logits than this are sampled on the calling thread: waking others would take longer.
const PARALLEL_FROM: usize = 1 << 15;

/// What a step is given.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Row-major, [rows, vocab_size].
    pub logits: Logits<'a>,
    /// Row-major, [rows, ceil(vocab_size / 32)]: bit i % 32 of word i / 32 set: token i is allowed.
    pub masks: Option<&'a [u32]>,
    /// Whether the chosen tokens' log-probabilities are wanted.
    pub log_probabilities: bool,
    /// Whose threads help the calling one.
    pub pool: Option<&'a ThreadPool>,
}

impl<'a> Batch<'a> {
    /// Float32 logits alone, and the calling thread.
    #[must_use]
    pub fn new(logits: &'a [f32]) -> Self {
        Self { logits: Logits::Float32(logits), masks: None, log_probabilities: false, pool: None }
    }
}

/// Chooses a token for each row of a batch; every row has its own settings, random sequence and history.
#[derive(Clone, Debug)]
pub struct Sampler {
    rows: Vec<Row>,
    outcomes: Vec<Result<Choice, Fault>>,
    choices: Vec<Choice>,
    /// One for each thread that works.
    workspaces: Vec<Workspace>,
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
        let (outcomes, choices, workspaces) = (Vec::new(), Vec::new(), Vec::new());
        let mut sampler = Self { rows: Vec::new(), outcomes, choices, workspaces, vocab_size };
        sampler.extend(params)?;
        Ok(sampler)
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
        self.rows.iter().map(Row::step)
    }

    /// For each row the most probable tokens of the last logits it was given, the first first, with log-probabilities
    /// under the logits as given; as many as its settings ask for.
    pub fn top(&self) -> impl Iterator<Item = &[(i32, f32)]> {
        self.rows.iter().map(Row::top)
    }

    /// Adds rows behind those there are, at step 0.
    ///
    /// # Errors
    /// A setting is out of its range (rows are numbered as they would stand); then nothing changes.
    pub fn extend(&mut self, params: &[SamplingParams]) -> Result<(), SamplerError> {
        let first = self.rows.len();
        let row = |(index, params)| Row::new(first + index, params, self.vocab_size);
        let rows: Result<Vec<Row>, _> = params.iter().enumerate().map(row).collect();
        self.rows.extend(rows?);
        Ok(())
    }

    /// Lets the penalties of row `row` know the ids of its prompt.
    ///
    /// # Errors
    /// The row does not exist, or an id is not in the vocabulary; then nothing changes.
    pub fn add_prompt(&mut self, row: usize, ids: &[u32]) -> Result<(), SamplerError> {
        let (rows, vocab_size) = (self.rows.len(), self.vocab_size);
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocab_size) {
            return Err(SamplerError::Id { row, field: "prompt", index, id: u64::from(ids[index]), vocab_size });
        }
        self.rows.get_mut(row).ok_or(SamplerError::NoSuchRow { row, rows })?.add_prompt(ids);
        Ok(())
    }

    /// Chooses a token for each row and goes on to the next step.
    ///
    /// # Errors
    /// Something has another shape, or a row cannot be sampled (the first such row is named). Then no row goes on: the
    /// same call with that row mended, or dropped by [`select`](Self::select), gives the others what they would have had.
    pub fn sample(&mut self, batch: &Batch<'_>) -> Result<&[Choice], SamplerError> {
        self.choose(batch)?;
        self.choices.clear();
        for (row, outcome) in self.outcomes.iter().enumerate() {
            self.choices.push(outcome.map_err(|fault| SamplerError::Logits { row, fault })?);
        }
        self.rows.iter_mut().zip(&self.choices).for_each(|(row, choice)| row.accept(choice));
        Ok(&self.choices)
    }

    /// As [`sample`](Self::sample), but each row by itself: those that can be sampled go on, the others stay.
    ///
    /// # Errors
    /// Something has another shape.
    pub fn sample_partial(&mut self, batch: &Batch<'_>) -> Result<&[Result<Choice, Fault>], SamplerError> {
        self.choose(batch)?;
        for (row, outcome) in self.rows.iter_mut().zip(&self.outcomes) {
            if let Ok(choice) = outcome {
                row.accept(choice);
            }
        }
        Ok(&self.outcomes)
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
            // The common case, finished rows leaving, copies no history.
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

    /// Fills `outcomes`; no row goes on.
    fn choose(&mut self, batch: &Batch<'_>) -> Result<(), SamplerError> {
        let Batch { logits, masks, log_probabilities, pool } = *batch;
        let (vocab_size, words) = (self.vocab_size, self.vocab_size.div_ceil(32));
        check_length(logits.len(), self.rows.len(), vocab_size)?;
        masks.map_or(Ok(()), |masks| check_length(masks.len(), self.rows.len(), words))?;
        let pool = pool.filter(|_| self.rows.len() > 1 && logits.len() >= PARALLEL_FROM);
        let threads = pool.map_or(1, |pool| pool.current_num_threads().min(self.rows.len()));
        if self.workspaces.len() < threads {
            self.workspaces.resize(threads, Workspace::default());
        }
        self.outcomes.clear();
        self.outcomes.resize(self.rows.len(), Ok(Choice::default()));
        let rows = self.rows.iter_mut().zip(&mut self.outcomes).enumerate();
        share(rows, &mut self.workspaces[..threads], pool, |workspace, (index, (row, outcome))| {
            let mask = masks.map(|masks| &masks[index * words..(index + 1) * words]);
            *outcome = row.choose(logits.row(index, vocab_size), mask, log_probabilities, workspace);
        });
        Ok(())
    }
}

fn check_length(given: usize, rows: usize, each: usize) -> Result<(), SamplerError> {
    let expected = rows.saturating_mul(each);
    if given == expected { Ok(()) } else { Err(SamplerError::Shape { given, expected }) }
}
