//! The batched sampler of `rust/decode`.

use std::sync::{Mutex, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use wordkiln_decode as decode;

use crate::errors::ArgumentError;
use crate::threads;

fn argument_error(error: decode::SamplerError) -> PyErr {
    ArgumentError::new_err(error.to_string())
}

/// Behind a lock, so that a second thread waits for its turn instead of meeting a borrowed object.
#[pyclass(module = "wordkiln._rust", frozen)]
struct Sampler(Mutex<decode::Sampler>);

impl Sampler {
    fn with<R>(&self, work: impl FnOnce(&mut decode::Sampler) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Token ids and their log-probabilities.
type Chosen<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<f32>>);

#[pymethods]
impl Sampler {
    #[new]
    fn new(params: Vec<(f64, usize, f64, u64)>, vocab_size: usize) -> PyResult<Self> {
        let rows: Vec<_> = params
            .into_iter()
            .map(|(temperature, top_k, top_p, seed)| decode::SamplingParams { temperature, top_k, top_p, seed })
            .collect();
        decode::Sampler::new(&rows, vocab_size).map(|sampler| Self(Mutex::new(sampler))).map_err(argument_error)
    }

    fn sample<'py>(
        &self,
        py: Python<'py>,
        logits: PyReadonlyArray2<'py, f32>,
        log_probabilities: bool,
    ) -> PyResult<Chosen<'py>> {
        let shape = [logits.shape()[0], logits.shape()[1]];
        let values = logits.as_slice().map_err(|_| ArgumentError::new_err("logits: must be C-contiguous"))?;
        let chosen = py.detach(|| {
            self.with(|sampler| {
                if shape != [sampler.len(), sampler.vocab_size()] {
                    let expected = sampler.len().saturating_mul(sampler.vocab_size());
                    return Err(decode::SamplerError::Shape { given: values.len(), expected });
                }
                let choices = threads::install(|| sampler.sample(values, log_probabilities))?;
                Ok(choices.iter().map(|choice| (choice.id, choice.log_probability)).unzip::<_, _, Vec<_>, Vec<_>>())
            })
        });
        let (ids, log_probabilities) = chosen.map_err(argument_error)?;
        Ok((ids.into_pyarray(py), log_probabilities.into_pyarray(py)))
    }

    fn select(&self, py: Python<'_>, rows: Vec<usize>) -> PyResult<()> {
        py.detach(|| self.with(|sampler| sampler.select(&rows))).map_err(argument_error)
    }

    fn steps(&self, py: Python<'_>) -> Vec<u64> {
        py.detach(|| self.with(|sampler| sampler.steps().collect()))
    }
}

#[pyfunction]
fn derive_seed(seed: u64, index: u64) -> u64 {
    decode::rng::derive_seed(seed, index)
}

#[pyfunction]
fn uniform(seed: u64, step: u64) -> f64 {
    decode::rng::uniform(seed, step)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Sampler>()?;
    m.add_function(wrap_pyfunction!(derive_seed, m)?)?;
    m.add_function(wrap_pyfunction!(uniform, m)?)
}
