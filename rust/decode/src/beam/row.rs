//! A row of logits that is being read: which text it continues, and what may follow there.

use super::bans::Bans;
use super::history::{History, Node};
use super::scan::{Choice, Scan};
use crate::error::Fault;

/// A row of the logits.
#[derive(Clone, Debug)]
pub struct Row {
    /// The prompt that it continues.
    pub prompt: usize,
    /// What has been written after the prompt.
    pub node: Node,
    /// What was read.
    pub scan: Scan,
    /// The token of the forced prefix that must come.
    pub forced: Option<u32>,
    /// The tokens that may not, in ascending order; none where one is forced.
    pub banned: Vec<u32>,
    /// Whether the logits can be searched.
    pub outcome: Result<(), Fault>,
    context: Vec<u32>,
}

impl Row {
    /// A row that continues the text at `node`.
    pub fn new(prompt: usize, node: Node) -> Self {
        let (context, banned) = (Vec::new(), Vec::new());
        Self { prompt, node, scan: Scan::default(), forced: None, banned, outcome: Ok(()), context }
    }

    /// Reads the row's logits, and finds what is banned after its text, of which `written` tokens are new.
    pub fn read(
        &mut self,
        logits: &[f32],
        mask: Option<&[u32]>,
        forced: Option<u32>,
        bans: &Bans,
        (prompt, history, written): (&[u32], &History, usize),
    ) {
        self.forced = forced;
        // What the caller forces no ban keeps away; only a mask, which belongs to the step, can.
        let always = if forced.is_some() { None } else { bans.mask() };
        self.outcome = self.scan.summarise(logits, [always, mask]);
        self.banned.clear();
        if forced.is_none() {
            self.collect_context(prompt, history, bans.context());
            bans.collect(&self.context, written, &mut self.banned);
        }
    }

    /// The tokens that may follow, of logits from `bound` on.
    pub fn tokens_from<'a>(&'a self, logits: &'a [f32], bound: f32) -> impl Iterator<Item = (u32, f32)> + 'a {
        let choice = self.forced.map_or(Choice::AllBut(&self.banned), Choice::Forced);
        self.scan.tokens_from(logits, bound, choice)
    }

    /// The last `length` tokens of prompt and text.
    fn collect_context(&mut self, prompt: &[u32], history: &History, length: usize) {
        self.context.clear();
        self.context.extend(history.backwards(self.node).take(length));
        let rest = length - self.context.len();
        self.context.extend(prompt.iter().rev().take(rest));
        self.context.reverse();
    }
}
