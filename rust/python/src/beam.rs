//! The beam search of `rust/decode`.

use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use wordkiln_decode as decode;

use crate::errors::ArgumentError;
use crate::threads;

fn argument_error(error: decode::BeamError) -> PyErr {
    ArgumentError::new_err(error.to_string())
}

/// False, True or "never".
#[derive(FromPyObject)]
enum EarlyStopping {
    Full(bool),
    Never(String),
}

/// The attributes of `wordkiln.generation.BeamParams`, which has checked their types.
#[derive(FromPyObject)]
struct Params {
    num_beams: usize,
    num_return: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    num_beam_groups: usize,
    diversity_penalty: f64,
    max_new_tokens: usize,
    min_new_tokens: usize,
    no_repeat_ngram_size: usize,
    end_ids: Vec<u32>,
    forced_prefix: Vec<Vec<u32>>,
    bad_words: Vec<Vec<u32>>,
}

/// Behind a lock, so that a second thread waits for its turn instead of meeting a borrowed object.
#[pyclass(module = "wordkiln._rust", frozen)]
struct BeamSearch(Mutex<decode::BeamSearch>);

impl BeamSearch {
    fn with<R>(&self, work: impl FnOnce(&mut decode::BeamSearch) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The row that each next row continues, and with which token.
type Next<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<i32>>);

#[pymethods]
impl BeamSearch {
    #[new]
    fn new(py: Python<'_>, params: Params, prompts: Vec<Vec<u32>>, vocab_size: usize) -> PyResult<Self> {
        let prefixes = params.forced_prefix;
        let params = decode::BeamParams {
            num_beams: params.num_beams,
            num_return: params.num_return,
            length_penalty: params.length_penalty,
            early_stopping: match params.early_stopping {
                EarlyStopping::Full(true) => decode::EarlyStopping::Full,
                EarlyStopping::Full(false) => decode::EarlyStopping::Estimate,
                EarlyStopping::Never(text) if text == "never" => decode::EarlyStopping::Never,
                EarlyStopping::Never(_) => {
                    return Err(ArgumentError::new_err("early_stopping: must be False, True or 'never'"));
                }
            },
            num_beam_groups: params.num_beam_groups,
            diversity_penalty: params.diversity_penalty,
            max_new_tokens: params.max_new_tokens,
            min_new_tokens: params.min_new_tokens,
            no_repeat_ngram_size: params.no_repeat_ngram_size,
            end_ids: params.end_ids,
            bad_words: params.bad_words,
        };
        let search = py.detach(|| decode::BeamSearch::new(params, prompts, prefixes, vocab_size));
        search.map(|search| Self(Mutex::new(search))).map_err(argument_error)
    }

    #[pyo3(signature = (logits, masks = None))]
    fn step<'py>(
        &self,
        py: Python<'py>,
        logits: PyReadonlyArray2<'py, f32>,
        masks: Option<PyReadonlyArray2<'py, u32>>,
    ) -> PyResult<Next<'py>> {
        let shape = [logits.shape()[0], logits.shape()[1]];
        let contiguous = |name| ArgumentError::new_err(format!("{name}: must be C-contiguous"));
        let logits = logits.as_slice().map_err(|_| contiguous("logits"))?;
        let masks = masks.as_ref().map(|masks| masks.as_slice().map_err(|_| contiguous("masks"))).transpose()?;
        let next = py.detach(|| {
            self.with(|search| {
                if shape != [search.rows(), search.vocab_size()] {
                    let expected = search.rows().saturating_mul(search.vocab_size());
                    return Err(decode::BeamError::Shape { field: "logits", given: logits.len(), expected });
                }
                let pool = if shape[0] > 1 { threads::current_pool() } else { None };
                search.step(logits, masks, pool.as_deref())?;
                let parents: Vec<i64> = search.parents().iter().map(|&parent| parent as i64).collect();
                Ok((parents, search.tokens().to_vec()))
            })
        });
        let (parents, tokens) = next.map_err(argument_error)?;
        Ok((parents.into_pyarray(py), tokens.into_pyarray(py)))
    }

    /// How many rows the next logits must have.
    #[getter]
    fn rows(&self) -> usize {
        self.with(|search| search.rows())
    }

    /// For each prompt its texts: ids, score, why it is over; those that run as well where they are to count.
    fn hypotheses(&self, py: Python<'_>, running: bool) -> Vec<Vec<(Vec<u32>, f64, &'static str)>> {
        let texts =
            py.detach(|| self.with(|search| if running { search.hypotheses_so_far() } else { search.hypotheses() }));
        let plain = |text: decode::Hypothesis| {
            let reason = match text.finish {
                decode::Finish::End => "end",
                decode::Finish::Length => "length",
                decode::Finish::Running => "interrupted",
            };
            (text.ids, text.score, reason)
        };
        texts.into_iter().map(|texts| texts.into_iter().map(plain).collect()).collect()
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<BeamSearch>()
}
