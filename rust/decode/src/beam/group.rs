//! A group of beams: which of their continuations run on, and which texts have ended.

use std::cmp::Ordering;

use super::history::{History, Node};
use super::params::{BeamParams, EarlyStopping};
use super::row::Row;

/// A text that is still being written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beam {
    /// Its row in the logits.
    pub row: usize,
    /// What has been written.
    pub node: Node,
    /// The sum of its log-probabilities, less diversity penalties.
    pub sum: f64,
}

/// A text that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// What has been written.
    pub node: Node,
    /// Its sum over the power of its length.
    pub score: f64,
    /// Whether an end token stands at its end.
    pub by_end_id: bool,
}

/// A beam and one token more.
#[derive(Clone, Copy, Debug)]
struct Continuation {
    sum: f64,
    beam: usize,
    token: u32,
}

impl Continuation {
    /// Higher sums first; equal ones by beam, then by token.
    fn rank(&self, other: &Self) -> Ordering {
        other.sum.total_cmp(&self.sum).then(self.beam.cmp(&other.beam)).then(self.token.cmp(&other.token))
    }
}

/// Buffers of [`Group::advance`] that all groups share.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    continuations: Vec<Continuation>,
    tops: Vec<f64>,
    next: Vec<Beam>,
    /// The rows and tokens of the beams that run on, in the order of the next logits' rows.
    pub parents: Vec<usize>,
    pub tokens: Vec<i32>,
}

/// The rows of a step.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub all: &'a [Row],
    pub logits: &'a [f32],
    pub vocab_size: usize,
}

impl<'a> Rows<'a> {
    /// The tokens that `row` may go on with, of logits from `bound` on.
    fn tokens_from(self, row: usize, bound: f32) -> impl Iterator<Item = (u32, f32)> + 'a {
        let logits = &self.logits[row * self.vocab_size..][..self.vocab_size];
        self.all[row].tokens_from(logits, bound)
    }
}

/// Beams that are ranked among themselves.
#[derive(Clone, Debug)]
pub struct Group {
    /// The beams that run, the best first; none when the group is done.
    pub beams: Vec<Beam>,
    /// The best ended texts, at most as many as the group has beams, the best first.
    pub ended: Vec<Ended>,
}

impl Group {
    /// A group that is about to write its first token after the prompt in `row`.
    pub fn new(row: usize, params: &BeamParams) -> Self {
        let mut beams = Vec::with_capacity(params.group_size());
        beams.push(Beam { row, node: Node::ROOT, sum: 0.0 });
        Self { beams, ended: Vec::with_capacity(params.group_size() + 1) }
    }

    /// Goes on by one token; `written` counts it. The tokens in `space` from `taken_from` on are those that earlier groups
    /// of the same prompt took in this step.
    pub fn advance(
        &mut self,
        params: &BeamParams,
        written: usize,
        rows: Rows<'_>,
        taken_from: usize,
        history: &mut History,
        space: &mut Workspace,
    ) {
        self.rank_continuations(params, rows, taken_from, space);
        let last = written == params.max_new_tokens;
        let size = params.group_size();
        space.next.clear();
        for (place, continuation) in space.continuations.iter().enumerate() {
            let &Continuation { sum, beam, token } = continuation;
            let Beam { row, node, .. } = self.beams[beam];
            let by_end_id = params.end_ids.contains(&token);
            if by_end_id || last {
                // What ends behind the first `size` is no better than what runs on: it was looked at to fill the beams.
                if place < size {
                    let score = params.score(sum, written);
                    keep_best(&mut self.ended, size, score, || Ended {
                        node: history.push(node, token),
                        score,
                        by_end_id,
                    });
                }
            } else if space.next.len() < size {
                space.next.push(Beam { row: space.parents.len(), node: history.push(node, token), sum });
                space.parents.push(row);
                space.tokens.push(token as i32);
            }
        }
        std::mem::swap(&mut self.beams, &mut space.next);
        if self.is_done(params, written) {
            space.parents.truncate(space.parents.len() - self.beams.len());
            space.tokens.truncate(space.tokens.len() - self.beams.len());
            self.beams.clear();
        }
    }

    /// Whether no beam has a token to go on with.
    pub fn is_stuck(&self, rows: Rows<'_>) -> bool {
        self.beams.iter().all(|beam| rows.tokens_from(beam.row, f32::NEG_INFINITY).next().is_none())
    }

    /// The best `reach` continuations of all beams, the best first.
    fn rank_continuations(&self, params: &BeamParams, rows: Rows<'_>, taken_from: usize, space: &mut Workspace) {
        let Workspace { continuations, tops, tokens, .. } = space;
        let taken = &tokens[taken_from..];
        let bound = self.lower_bound(params.reach(), taken.len(), rows, tops);
        continuations.clear();
        for (beam, &Beam { row, sum, .. }) in self.beams.iter().enumerate() {
            let before = sum - rows.all[row].scan.log_total;
            // A little less: the sums were rounded, and so is their difference.
            let slack = (bound.abs() + before.abs()) * 1e-12;
            let bound = ((bound - before - slack) as f32).next_down();
            continuations.extend(rows.tokens_from(row, bound).map(|(token, logit)| {
                let times = taken.iter().filter(|&&other| other == token as i32).count();
                Continuation { sum: before + f64::from(logit) - params.diversity_penalty * times as f64, beam, token }
            }));
        }
        let reach = params.reach();
        if reach < continuations.len() {
            continuations.select_nth_unstable_by(reach, Continuation::rank);
            continuations.truncate(reach);
        }
        continuations.sort_unstable_by(Continuation::rank);
    }

    /// A sum that the `reach` best continuations have: more parts of rows have a token with such a sum, by the number of
    /// tokens that are banned or that cost.
    fn lower_bound(&self, reach: usize, taken: usize, rows: Rows<'_>, tops: &mut Vec<f64>) -> f64 {
        tops.clear();
        let mut nth = reach;
        for &Beam { row, sum, .. } in &self.beams {
            let Row { scan, banned, forced, .. } = &rows.all[row];
            if forced.is_some() {
                return f64::NEG_INFINITY;
            }
            nth += banned.len() + taken;
            tops.extend(scan.tops.iter().map(|&top| sum - scan.log_total + f64::from(top)));
        }
        if nth > tops.len() {
            return f64::NEG_INFINITY;
        }
        *tops.select_nth_unstable_by(nth - 1, |a, b| b.total_cmp(a)).1
    }

    fn is_done(&self, params: &BeamParams, written: usize) -> bool {
        let Some(best) = self.beams.first() else { return true };
        let Some(worst) = self.ended.get(params.group_size() - 1) else { return false };
        let length = match params.early_stopping {
            EarlyStopping::Full => return true,
            EarlyStopping::Never if params.length_penalty > 0.0 => params.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::Estimate => written,
        };
        params.score(best.sum, length) <= worst.score
    }
}

/// Puts a text in its place, if it is one of the best `size`; of equal ones the earlier stays first.
fn keep_best(ended: &mut Vec<Ended>, size: usize, score: f64, text: impl FnOnce() -> Ended) {
    let place = ended.partition_point(|other| other.score >= score);
    if place < size {
        ended.insert(place, text());
        ended.truncate(size);
    }
}
