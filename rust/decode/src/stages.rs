//! The chain that narrows a row: each stage is a setting of one row, applied to its candidates in place.

use crate::candidates::Candidates;
use crate::params::SamplingParams;

/// One step of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Keep the logits within this many standard deviations of the highest (Tang et al. 2024, section 3).
    TopNSigma(f64),
    /// Keep the tokens with the highest logits (Fan et al. 2018, section 5.4).
    TopK(usize),
    /// Keep the most probable tokens that together hold this probability (Holtzman et al. 2020, section 3.1).
    TopP(f64),
    /// Keep the tokens this probable beside the most probable one (Nguyen et al. 2024, section 3).
    MinP(f64),
    /// Keep the tokens of typical surprise that together hold this probability (Meister et al. 2023, section 5).
    TypicalP(f64),
    /// At random, drop all but the last of the tokens with at least this probability.
    Xtc {
        /// How often.
        probability: f64,
        /// From which probability on.
        threshold: f64,
    },
}

impl Stage {
    /// The stages that `params` ask for, in the order in which they apply. A stage that would keep all is left out.
    pub fn chain(params: &SamplingParams) -> Vec<Stage> {
        let xtc = Stage::Xtc { probability: params.xtc_probability, threshold: params.xtc_threshold };
        let stages = [
            (params.top_n_sigma > 0.0, Stage::TopNSigma(params.top_n_sigma)),
            (params.top_k > 0, Stage::TopK(params.top_k)),
            (params.top_p < 1.0, Stage::TopP(params.top_p)),
            (params.min_p > 0.0, Stage::MinP(params.min_p)),
            (params.typical_p < 1.0, Stage::TypicalP(params.typical_p)),
            (params.xtc_probability > 0.0, xtc),
        ];
        stages.into_iter().filter_map(|(asked_for, stage)| asked_for.then_some(stage)).collect()
    }

    /// Narrows `candidates`; at least one is left. `uniform` is the step's number for stages that act at random.
    pub fn apply(self, candidates: &mut Candidates<'_>, uniform: f64) {
        match self {
            Stage::TopNSigma(count) => candidates.keep_deviations(count),
            Stage::TopK(count) => candidates.keep_count(count),
            Stage::TopP(share) => candidates.keep_mass(share),
            Stage::MinP(share) => candidates.keep_relative(share),
            Stage::TypicalP(share) => candidates.keep_typical(share),
            Stage::Xtc { probability, threshold } => {
                if uniform < probability {
                    candidates.drop_first(threshold);
                }
            }
        }
    }
}
