//! The tokens that are still in the running for one row, and the passes over them that never sort the vocabulary.

mod narrow;

use crate::error::Fault;
use crate::exp::{exp2, scale};
use crate::kernels::{self, BLOCK};
use crate::list::List;

/// What the passes over a row write. Each buffer takes its full size when it is first used, then nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    block_max: Vec<f32>,
    block_mass: Vec<f64>,
    /// Of each block the weight of its highest value, and its mass.
    block_top: Vec<f32>,
    block_weight: Vec<f32>,
    /// The candidates, once a stage has narrowed the row.
    list: List,
}

/// One row's candidates: first the whole row, in place, then the list that a stage left. A candidate's weight is
/// e^((logit - highest) / temperature) = 2^((logit - highest) * scale), highest being the row's; surprises are in bits.
pub struct Candidates<'a> {
    logits: &'a [f32],
    highest: f32,
    scale: f32,
    buffers: &'a mut Buffers,
    listed: bool,
}

impl<'a> Candidates<'a> {
    /// Reads a whole row once.
    pub fn scan(logits: &'a [f32], scale: f32, buffers: &'a mut Buffers) -> Result<Self, Fault> {
        buffers.block_max.resize(logits.len().div_ceil(BLOCK), 0.0);
        let any_nan = kernels::maxima(logits, &mut buffers.block_max);
        let (_, highest) = kernels::range(&buffers.block_max);
        if any_nan {
            return Err(Fault::Nan { id: position(logits, |logit| logit.is_nan()) });
        }
        if highest == f32::INFINITY {
            return Err(Fault::Infinite { id: position(logits, |logit| logit == f32::INFINITY) });
        }
        if highest == f32::NEG_INFINITY {
            return Err(Fault::Empty);
        }
        Ok(Self { logits, highest, scale, buffers, listed: false })
    }

    /// The token with the highest logit; of several the lowest id.
    pub fn best(&self) -> usize {
        let block = self.buffers.block_max.iter().position(|&max| max == self.highest).unwrap_or(0);
        let start = block * BLOCK;
        start + position(&self.logits[start..], |logit| logit == self.highest)
    }

    /// log sum exp of the row as it was given: no temperature, no stage.
    pub fn log_total(&mut self) -> f64 {
        f64::from(self.highest) + self.masses(scale(1.0)).ln()
    }

    /// Writes the `count` first tokens and their logits to `first`, and keeps them alone. -inf is never among them.
    pub fn copy_first(&mut self, count: usize, first: &mut Vec<(i32, f32)>) {
        self.keep_count(count);
        self.list_all();
        self.buffers.list.sorted(first);
    }

    /// The whole row again.
    pub fn restart(&mut self) {
        self.listed = false;
    }

    /// The surprise of token `id`, in bits, among candidates of that mass.
    pub fn surprise(&self, id: usize, log_total: f64) -> f64 {
        log_total - self.exponent(self.logits[id])
    }

    /// The candidate at which the running sum of weights, by id, passes the share `uniform` of all.
    pub fn draw(&mut self, uniform: f64) -> usize {
        let target = uniform * self.total();
        let mut before = 0.0;
        let mut chosen = (0, 0.0);
        for (block, &mass) in self.buffers.block_mass.iter().enumerate() {
            if mass > 0.0 {
                chosen = (block, before);
                before += mass;
                if before > target {
                    break;
                }
            }
        }
        let (block, before) = chosen;
        let places = (block * BLOCK..self.len()).take(BLOCK);
        if self.listed {
            let list = &self.buffers.list;
            passing(places.map(|place| (list.ids()[place] as usize, list.weights()[place])), before, target)
        } else {
            passing(places.map(|id| (id, weight(self.logits[id], self.highest, self.scale))), before, target)
        }
    }

    fn len(&self) -> usize {
        if self.listed { self.buffers.list.len() } else { self.logits.len() }
    }

    /// The highest logit of a candidate.
    fn top(&self) -> f32 {
        if !self.listed {
            return self.highest;
        }
        kernels::range(self.buffers.list.logits()).1
    }

    /// The sum of all weights; leaves those of blocks in `block_mass`.
    fn total(&mut self) -> f64 {
        if !self.listed {
            return self.masses(self.scale);
        }
        let Buffers { block_mass, list, .. } = &mut *self.buffers;
        block_mass.clear();
        block_mass.extend(list.weights().chunks(BLOCK).map(|block| kernels::mass_from(block, block, 0.0).1));
        block_mass.iter().sum()
    }

    /// The same for the whole row, at any temperature.
    fn masses(&mut self, scale: f32) -> f64 {
        let block_mass = &mut self.buffers.block_mass;
        block_mass.resize(self.logits.len().div_ceil(BLOCK), 0.0);
        kernels::masses(self.logits, self.highest, scale, block_mass);
        block_mass.iter().sum()
    }

    fn exponent(&self, logit: f32) -> f64 {
        exponent(logit, self.highest, self.scale)
    }
}

fn exponent(logit: f32, highest: f32, scale: f32) -> f64 {
    f64::from((logit - highest) * scale)
}

fn weight(logit: f32, highest: f32, scale: f32) -> f32 {
    exp2((logit - highest) * scale)
}

fn position(logits: &[f32], found: impl Fn(f32) -> bool) -> usize {
    logits.iter().position(|&logit| found(logit)).unwrap_or(0)
}

/// The first item at which the running sum passes `target`; the last with a weight where rounding lets none.
fn passing(weighted: impl Iterator<Item = (usize, f32)>, before: f64, target: f64) -> usize {
    let mut sum = before;
    let mut chosen = 0;
    for (id, weight) in weighted {
        if weight > 0.0 {
            chosen = id;
            sum += f64::from(weight);
            if sum > target {
                break;
            }
        }
    }
    chosen
}
