//! The chain that narrows a row: each stage is a setting of one row, applied to its candidates in place.

use crate::candidates::Candidates;
use crate::row::SamplingParams;

/// One step of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Keep the tokens with the highest logits.
    TopK(usize),
    /// Keep the most probable tokens that together hold this probability (Holtzman et al. 2020, section 3.1).
    TopP(f64),
}

impl Stage {
    /// The stages that `params` ask for, in the order in which they apply. A stage that would keep all is left out.
    pub fn chain(params: &SamplingParams) -> Vec<Stage> {
        let mut chain = Vec::new();
        if params.top_k > 0 {
            chain.push(Stage::TopK(params.top_k));
        }
        if params.top_p < 1.0 {
            chain.push(Stage::TopP(params.top_p));
        }
        chain
    }

    /// Narrows `candidates`; at least one is left.
    pub fn apply(self, candidates: &mut Candidates<'_>) {
        match self {
            Stage::TopK(count) => candidates.keep_count(count),
            Stage::TopP(share) => candidates.keep_mass(share),
        }
    }
}
