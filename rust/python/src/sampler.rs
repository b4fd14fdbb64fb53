//! The batched sampler of `rust/decode`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArrayDescr, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1,
    PyReadonlyArray2, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use wordkiln_decode::{self as decode, Batch, Logits};

use crate::errors::ArgumentError;
use crate::threads;

fn argument_error(error: decode::SamplerError) -> PyErr {
    ArgumentError::new_err(error.to_string())
}

/// The attributes of `wordkiln.generation.SamplingParams`.
#[derive(FromPyObject)]
struct Params {
    temperature: f64,
    top_n_sigma: f64,
    top_k: usize,
    top_p: f64,
    min_p: f64,
    typical_p: f64,
    xtc_probability: f64,
    xtc_threshold: f64,
    mirostat_tau: f64,
    mirostat_eta: f64,
    logit_bias: HashMap<u32, f32>,
    repetition_penalty: f64,
    presence_penalty: f64,
    frequency_penalty: f64,
    dry_multiplier: f64,
    dry_base: f64,
    dry_allowed_length: usize,
    dry_range: usize,
    dry_breakers: Vec<u32>,
    no_repeat_ngram_size: usize,
    banned_ids: Vec<u32>,
    bad_words_ids: Vec<Vec<u32>>,
    forced_ids: Vec<u32>,
    min_new_tokens: u64,
    end_ids: Vec<u32>,
    logprobs: usize,
    seed: u64,
}

impl From<Params> for decode::SamplingParams {
    fn from(params: Params) -> Self {
        Self {
            temperature: params.temperature,
            top_n_sigma: params.top_n_sigma,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            typical_p: params.typical_p,
            xtc_probability: params.xtc_probability,
            xtc_threshold: params.xtc_threshold,
            mirostat_tau: params.mirostat_tau,
            mirostat_eta: params.mirostat_eta,
            logit_bias: params.logit_bias.into_iter().collect(),
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            dry_multiplier: params.dry_multiplier,
            dry_base: params.dry_base,
            dry_allowed_length: params.dry_allowed_length,
            dry_range: params.dry_range,
            dry_breakers: params.dry_breakers,
            no_repeat_ngram_size: params.no_repeat_ngram_size,
            banned_ids: params.banned_ids,
            bad_words_ids: params.bad_words_ids,
            forced_ids: params.forced_ids,
            min_new_tokens: params.min_new_tokens,
            end_ids: params.end_ids,
            logprobs: params.logprobs,
            seed: params.seed,
        }
    }
}

fn rows(params: Vec<Params>) -> Vec<decode::SamplingParams> {
    params.into_iter().map(decode::SamplingParams::from).collect()
}

/// A batch of logits, borrowed from numpy.
enum Given<'py> {
    Float32(PyReadonlyArray2<'py, f32>),
    Float16(PyReadonlyArray2<'py, u16>),
    Bfloat16(PyReadonlyArray2<'py, u16>),
}

impl<'py> Given<'py> {
    fn new(logits: &Bound<'py, PyAny>, shape: [usize; 2]) -> PyResult<Self> {
        if let Ok(array) = logits.cast::<PyArray2<f32>>() {
            return checked("logits", array, shape).map(Self::Float32);
        }
        if let Ok(bits) = logits.cast::<PyArray2<u16>>() {
            return checked("logits", bits, shape).map(Self::Bfloat16);
        }
        let array = untyped("logits", logits, LOGITS)?;
        let dtype = array.dtype();
        let is_float16 = dtype.is_equiv_to(&PyArrayDescr::new(logits.py(), "float16")?);
        if !is_float16 && dtype.str()? != "bfloat16" {
            // float32 and uint16 are known by now: what is wrong with them is the number of dimensions.
            let known = dtype.is_equiv_to(&numpy::dtype::<f32>(logits.py()))
                || dtype.is_equiv_to(&numpy::dtype::<u16>(logits.py()));
            let wrong_type = || ArgumentError::new_err(format!("logits: is {dtype}: {LOGITS}"));
            return Err(if known { wrong_shape("logits", array.shape(), shape) } else { wrong_type() });
        }
        if array.shape() != shape {
            return Err(wrong_shape("logits", array.shape(), shape));
        }
        let bits = logits.call_method1("view", (numpy::dtype::<u16>(logits.py()),))?;
        let bits = checked("logits", bits.cast::<PyArray2<u16>>()?, shape)?;
        Ok(if is_float16 { Self::Float16(bits) } else { Self::Bfloat16(bits) })
    }

    fn logits(&self) -> PyResult<Logits<'_>> {
        Ok(match self {
            Given::Float32(array) => Logits::Float32(array.as_slice()?),
            Given::Float16(array) => Logits::Float16(array.as_slice()?),
            Given::Bfloat16(array) => Logits::Bfloat16(array.as_slice()?),
        })
    }
}

const LOGITS: &str = "must be a numpy array of float32, float16 or bfloat16 (of ml_dtypes, or its bits as uint16)";
const MASKS: &str = "must be a numpy array of uint32";

fn untyped<'a, 'py>(
    field: &str,
    value: &'a Bound<'py, PyAny>,
    limit: &str,
) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    let refused = |_| match value.get_type().name() {
        Ok(name) => ArgumentError::new_err(format!("{field}: is {name}: {limit}")),
        Err(error) => error,
    };
    value.cast::<PyUntypedArray>().map_err(refused)
}

fn wrong_shape(field: &str, shape: &[usize], expected: [usize; 2]) -> PyErr {
    ArgumentError::new_err(format!("{field}: shape {shape:?}: must be {expected:?}"))
}

/// `array` for reading in place.
fn checked<'py, T: Element>(
    field: &str,
    array: &Bound<'py, PyArray2<T>>,
    shape: [usize; 2],
) -> PyResult<PyReadonlyArray2<'py, T>> {
    if array.shape() != shape {
        return Err(wrong_shape(field, array.shape(), shape));
    }
    if !array.is_c_contiguous() || !array.data().is_aligned() {
        let message = format!("{field}: must be C-contiguous and aligned, as numpy.ascontiguousarray makes them");
        return Err(ArgumentError::new_err(message));
    }
    Ok(array.try_readonly()?)
}

fn masks<'py>(masks: &Bound<'py, PyAny>, shape: [usize; 2]) -> PyResult<PyReadonlyArray2<'py, u32>> {
    let shape = [shape[0], shape[1].div_ceil(32)];
    if let Ok(array) = masks.cast::<PyArray2<u32>>() {
        return checked("masks", array, shape);
    }
    let array = untyped("masks", masks, MASKS)?;
    let name = array.dtype().to_string();
    if name == "uint32" {
        return Err(wrong_shape("masks", array.shape(), shape));
    }
    Err(ArgumentError::new_err(format!("masks: is {name}: {MASKS}")))
}

/// Behind a lock, so that a second thread waits for its turn instead of meeting a borrowed object.
#[pyclass(module = "wordkiln._rust", frozen)]
struct Sampler(Mutex<decode::Sampler>);

impl Sampler {
    fn with<R>(&self, work: impl FnOnce(&mut decode::Sampler) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `choose` on a batch, without the GIL.
    fn step<R: Send>(
        &self,
        py: Python<'_>,
        (logits, allowed): (&Bound<'_, PyAny>, Option<&Bound<'_, PyAny>>),
        log_probabilities: bool,
        choose: impl FnOnce(&mut decode::Sampler, &Batch<'_>) -> Result<R, decode::SamplerError> + Send,
    ) -> PyResult<R> {
        let shape = py.detach(|| self.with(|sampler| [sampler.len(), sampler.vocab_size()]));
        let given = Given::new(logits, shape)?;
        let logits = given.logits()?;
        let allowed = allowed.map(|allowed| masks(allowed, shape)).transpose()?;
        let masks = allowed.as_ref().map(PyReadonlyArray2::as_slice).transpose()?;
        let chosen = py.detach(|| {
            let pool = if shape[0] > 1 { threads::current_pool() } else { None };
            let batch = Batch { logits, masks, log_probabilities, pool: pool.as_deref() };
            self.with(|sampler| choose(sampler, &batch))
        });
        chosen.map_err(argument_error)
    }
}

type Ids<'py> = Bound<'py, PyArray1<i32>>;
type LogProbabilities<'py> = Bound<'py, PyArray1<f32>>;

#[pymethods]
impl Sampler {
    #[new]
    fn new(params: Vec<Params>, vocab_size: usize) -> PyResult<Self> {
        let sampler = decode::Sampler::new(&rows(params), vocab_size);
        sampler.map(|sampler| Self(Mutex::new(sampler))).map_err(argument_error)
    }

    #[pyo3(signature = (logits, masks=None))]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        logits: &Bound<'py, PyAny>,
        masks: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Ids<'py>> {
        let ids = self.step(py, (logits, masks), false, |sampler, batch| {
            Ok(sampler.sample(batch)?.iter().map(|choice| choice.id).collect::<Vec<_>>())
        })?;
        Ok(ids.into_pyarray(py))
    }

    #[pyo3(signature = (logits, masks=None))]
    fn sample_with_logprobs<'py>(
        &self,
        py: Python<'py>,
        logits: &Bound<'py, PyAny>,
        masks: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Ids<'py>, LogProbabilities<'py>)> {
        let (ids, log_probabilities) = self.step(py, (logits, masks), true, |sampler, batch| {
            let choices = sampler.sample(batch)?.iter();
            Ok(choices.map(|choice| (choice.id, choice.log_probability)).unzip::<_, _, Vec<_>, Vec<_>>())
        })?;
        Ok((ids.into_pyarray(py), log_probabilities.into_pyarray(py)))
    }

    #[pyo3(signature = (logits, masks=None))]
    #[allow(clippy::type_complexity)]
    fn sample_partial<'py>(
        &self,
        py: Python<'py>,
        logits: &Bound<'py, PyAny>,
        masks: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Ids<'py>, LogProbabilities<'py>, Vec<(usize, String)>)> {
        let (ids, log_probabilities, faults) = self.step(py, (logits, masks), true, |sampler, batch| {
            let outcomes = sampler.sample_partial(batch)?;
            let id = |outcome: &Result<decode::Choice, _>| outcome.as_ref().map_or(-1, |choice| choice.id);
            let log_probability = |outcome: &Result<decode::Choice, _>| {
                outcome.as_ref().map_or(f32::NAN, |choice| choice.log_probability)
            };
            let faults = outcomes.iter().enumerate().filter_map(|(row, outcome)| {
                outcome.err().map(|fault| (row, decode::SamplerError::Logits { row, fault }.to_string()))
            });
            let ids: Vec<i32> = outcomes.iter().map(id).collect();
            let log_probabilities: Vec<f32> = outcomes.iter().map(log_probability).collect();
            Ok((ids, log_probabilities, faults.collect()))
        })?;
        Ok((ids.into_pyarray(py), log_probabilities.into_pyarray(py), faults))
    }

    fn top(&self, py: Python<'_>) -> Vec<Vec<(i32, f32)>> {
        py.detach(|| self.with(|sampler| sampler.top().map(<[_]>::to_vec).collect()))
    }

    fn extend(&self, py: Python<'_>, params: Vec<Params>) -> PyResult<()> {
        let params = rows(params);
        py.detach(|| self.with(|sampler| sampler.extend(&params))).map_err(argument_error)
    }

    fn add_prompt(&self, py: Python<'_>, row: usize, ids: PyReadonlyArray1<'_, u32>) -> PyResult<()> {
        let ids = ids.as_slice()?;
        py.detach(|| self.with(|sampler| sampler.add_prompt(row, ids))).map_err(argument_error)
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
fn uniforms(seed: u64, step: u64) -> (f64, f64) {
    decode::rng::uniforms(seed, step).into()
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Sampler>()?;
    m.add_function(wrap_pyfunction!(derive_seed, m)?)?;
    m.add_function(wrap_pyfunction!(uniforms, m)?)
}
