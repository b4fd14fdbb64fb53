//! Beam search over a batch of prompts (docs/beam.md). The caller runs the model: it gives the logits of the rows that
//! are being written, and is told which row each next row continues, and with which token.

mod bans;
mod error;
mod group;
mod history;
mod params;
mod row;
mod scan;

use rayon::ThreadPool;

pub use error::BeamError;
pub use params::{BeamParams, EarlyStopping, MAX_BEAMS, MAX_END_IDS};

use bans::Bans;
use group::{Group, Rows, Workspace};
use history::{History, Node};
use params::check_ids;
use row::Row;

use crate::share::share;

/// Fewer logits than this are searched on the calling thread: waking others would take longer.
const PARALLEL_FROM: usize = 1 << 17;
/// Nodes of the history that are reserved at the start; a longer search doubles them now and then.
const RESERVED_NODES: usize = 1 << 14;

/// A text that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// The tokens after the prompt, the end token included.
    pub ids: Vec<u32>,
    /// The sum of their log-probabilities, less diversity penalties, over the power of their number.
    pub score: f64,
    /// Why it is over.
    pub finish: Finish,
}

/// Why a text of a search is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token ended it.
    End,
    /// It has as many tokens as it may.
    Length,
    /// It is not: the search was looked at while it went on.
    Running,
}

/// Searches the most probable texts of a batch of prompts.
#[derive(Clone, Debug)]
pub struct BeamSearch {
    params: BeamParams,
    bans: Bans,
    prompts: Vec<Vec<u32>>,
    prefixes: Vec<Vec<u32>>,
    vocab_size: usize,
    written: usize,
    /// `num_beam_groups` of each prompt.
    groups: Vec<Group>,
    /// At least as many as there are rows now; the others keep their buffers for later.
    rows: Vec<Row>,
    live: usize,
    history: History,
    space: Workspace,
}

impl BeamSearch {
    /// A search whose first logits are those after each of `prompts`, in their order. `prefixes` has, for each prompt, the
    /// tokens that its texts must begin with; or is empty.
    ///
    /// # Errors
    /// A setting is out of its range, an id is none of the vocabulary, a prefix is too long or holds an end id.
    pub fn new(
        params: BeamParams,
        prompts: Vec<Vec<u32>>,
        prefixes: Vec<Vec<u32>>,
        vocab_size: usize,
    ) -> Result<Self, BeamError> {
        params.check(vocab_size)?;
        prompts.iter().try_for_each(|prompt| check_ids("prompts", prompt, vocab_size))?;
        check_prefixes(&params, &prefixes, prompts.len(), vocab_size)?;
        let groups = params.num_beam_groups;
        let nodes = prompts.len().saturating_mul(params.num_beams).saturating_mul(params.max_new_tokens);
        Ok(Self {
            bans: Bans::new(&params, vocab_size),
            groups: (0..prompts.len() * groups).map(|group| Group::new(group / groups, &params)).collect(),
            rows: (0..prompts.len()).map(|prompt| Row::new(prompt, Node::ROOT)).collect(),
            live: prompts.len(),
            history: History::with_capacity(nodes.min(RESERVED_NODES)),
            space: Workspace::default(),
            written: 0,
            params,
            prompts,
            prefixes,
            vocab_size,
        })
    }

    /// How many rows the next logits must have; 0 when the search is over.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.live
    }

    /// How many logits a row has.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// For each of the rows that the next logits must have, the row of the last logits that it continues.
    #[must_use]
    pub fn parents(&self) -> &[usize] {
        &self.space.parents
    }

    /// For each of the rows that the next logits must have, its last token.
    #[must_use]
    pub fn tokens(&self) -> &[i32] {
        &self.space.tokens
    }

    /// Goes on by one token. `logits` is row-major, [rows, vocab_size]; `masks` [rows, ceil(vocab_size / 32)], bit i % 32
    /// of word i / 32 set where token i may come. `pool`: whose threads help the calling one.
    ///
    /// # Errors
    /// Another shape; a row holds NaN, +inf or nothing but -inf; a prompt has no token to go on with. Then nothing has
    /// changed, and the step can be tried again.
    pub fn step(&mut self, logits: &[f32], masks: Option<&[u32]>, pool: Option<&ThreadPool>) -> Result<(), BeamError> {
        let words = self.vocab_size.div_ceil(32);
        check_length("logits", logits.len(), self.live * self.vocab_size)?;
        masks.map_or(Ok(()), |masks| check_length("masks", masks.len(), self.live * words))?;
        self.read(logits, masks.map(|masks| (masks, words)), pool);
        self.check_rows(logits)?;
        self.written += 1;
        self.space.parents.clear();
        self.space.tokens.clear();
        let Self { params, groups, history, space, written, .. } = self;
        let rows = Rows { all: &self.rows, logits, vocab_size: self.vocab_size };
        for groups in groups.chunks_mut(params.num_beam_groups) {
            let taken_from = space.tokens.len();
            for group in groups.iter_mut().filter(|group| !group.beams.is_empty()) {
                group.advance(params, *written, rows, taken_from, history, space);
            }
        }
        self.assign_rows();
        Ok(())
    }

    /// The texts of each prompt, the best first: at most `num_return`, fewer where the search found fewer.
    #[must_use]
    pub fn hypotheses(&self) -> Vec<Vec<Hypothesis>> {
        self.best(false)
    }

    /// As [`hypotheses`](Self::hypotheses) while the search goes on: texts that run count as if they were over.
    #[must_use]
    pub fn hypotheses_so_far(&self) -> Vec<Vec<Hypothesis>> {
        self.best(true)
    }

    fn best(&self, running_too: bool) -> Vec<Vec<Hypothesis>> {
        let counts = running_too && self.written > 0;
        let of_prompt = |groups: &[Group]| {
            let running = groups.iter().flat_map(|group| &group.beams).filter(|_| counts);
            let running = running.map(|beam| (beam.node, self.params.score(beam.sum, self.written), Finish::Running));
            let finish = |by_end_id| if by_end_id { Finish::End } else { Finish::Length };
            let ended = groups.iter().flat_map(|group| &group.ended);
            let ended = ended.map(|text| (text.node, text.score, finish(text.by_end_id)));
            let mut texts: Vec<(Node, f64, Finish)> = ended.chain(running).collect();
            texts.sort_by(|a, b| b.1.total_cmp(&a.1));
            texts.truncate(self.params.num_return);
            let texts = texts.into_iter().map(|(node, score, finish)| {
                let mut ids: Vec<u32> = self.history.backwards(node).collect();
                ids.reverse();
                Hypothesis { ids, score, finish }
            });
            texts.collect()
        };
        self.groups.chunks(self.params.num_beam_groups).map(of_prompt).collect()
    }

    fn read(&mut self, logits: &[f32], masks: Option<(&[u32], usize)>, pool: Option<&ThreadPool>) {
        let Self { bans, prompts, prefixes, history, rows, live, vocab_size, written, .. } = self;
        let rows = rows[..*live].iter_mut();
        let pool = pool.filter(|_| rows.len() > 1 && logits.len() >= PARALLEL_FROM);
        let threads = pool.map_or(1, |pool| pool.current_num_threads().min(rows.len()));
        let (bans, prompts, prefixes, history) = (&*bans, &*prompts, &*prefixes, &*history);
        share(rows.enumerate(), &mut vec![(); threads], pool, |(), (index, row)| {
            let logits = &logits[index * *vocab_size..][..*vocab_size];
            let mask = masks.map(|(masks, words)| &masks[index * words..][..words]);
            let forced = prefixes.get(row.prompt).and_then(|prefix| prefix.get(*written)).copied();
            row.read(logits, mask, forced, bans, (&prompts[row.prompt], history, *written));
        });
    }

    fn check_rows(&self, logits: &[f32]) -> Result<(), BeamError> {
        for (index, row) in self.rows[..self.live].iter().enumerate() {
            row.outcome.map_err(|fault| BeamError::Logits { row: index, prompt: row.prompt, fault })?;
        }
        let rows = Rows { all: &self.rows, logits, vocab_size: self.vocab_size };
        let is_over = |group: &Group| group.ended.is_empty() && group.is_stuck(rows);
        match self.groups.chunks(self.params.num_beam_groups).position(|groups| groups.iter().all(is_over)) {
            Some(prompt) => Err(BeamError::NoToken { prompt, written: self.written }),
            None => Ok(()),
        }
    }

    /// Gives every beam that runs its row among the next.
    fn assign_rows(&mut self) {
        self.live = self.space.parents.len();
        for (index, group) in self.groups.iter().enumerate() {
            let prompt = index / self.params.num_beam_groups;
            for beam in &group.beams {
                match self.rows.get_mut(beam.row) {
                    Some(row) => (row.prompt, row.node) = (prompt, beam.node),
                    None => self.rows.push(Row::new(prompt, beam.node)),
                }
            }
        }
    }
}

fn check_prefixes(
    params: &BeamParams,
    prefixes: &[Vec<u32>],
    prompts: usize,
    vocab_size: usize,
) -> Result<(), BeamError> {
    let wrong = |value: String, limit: String| Err(BeamError::Parameter { field: "forced_prefix", value, limit });
    if !prefixes.is_empty() && prefixes.len() != prompts {
        return wrong(format!("{} lists", prefixes.len()), format!("none or one for each of the {prompts} prompts"));
    }
    for prefix in prefixes {
        check_ids("forced_prefix", prefix, vocab_size)?;
        if prefix.len() > params.max_new_tokens {
            let limit = format!("at most max_new_tokens={}", params.max_new_tokens);
            return wrong(format!("{} ids", prefix.len()), limit);
        }
        if let Some(id) = prefix.iter().find(|id| params.end_ids.contains(id)) {
            return wrong(id.to_string(), "no end id".into());
        }
    }
    Ok(())
}

fn check_length(field: &'static str, given: usize, expected: usize) -> Result<(), BeamError> {
    if given == expected { Ok(()) } else { Err(BeamError::Shape { field, given, expected }) }
}
