//! Constraints of `rust/decode`: a tokenizer's vocabulary, and where texts stand in their grammars.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use numpy::{PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use wordkiln_decode::constraint::{self, ConstraintError, Grammar};

use crate::errors::ArgumentError;
use crate::{interrupt, threads};

fn argument_error(error: ConstraintError) -> PyErr {
    ArgumentError::new_err(error.to_string())
}

#[pyclass(module = "wordkiln._rust", frozen)]
struct ConstraintVocabulary(Arc<constraint::Vocabulary>);

#[pymethods]
impl ConstraintVocabulary {
    #[new]
    fn new(py: Python<'_>, tokens: Vec<Option<Vec<u8>>>, special: Vec<u32>, end_ids: Vec<u32>) -> PyResult<Self> {
        let vocabulary = py.detach(|| constraint::Vocabulary::new(tokens, &special, &end_ids));
        vocabulary.map(|vocabulary| Self(Arc::new(vocabulary))).map_err(argument_error)
    }

    /// A matcher for JSON of a schema, given as text.
    fn schema(&self, py: Python<'_>, text: String) -> PyResult<ConstraintMatcher> {
        self.compile(py, Grammar::Schema(text))
    }

    /// A matcher for a regular expression.
    fn regex(&self, py: Python<'_>, text: String) -> PyResult<ConstraintMatcher> {
        self.compile(py, Grammar::Regex(text))
    }

    /// A matcher for one of some texts.
    fn choices(&self, py: Python<'_>, texts: Vec<String>) -> PyResult<ConstraintMatcher> {
        self.compile(py, Grammar::Choices(texts))
    }

    /// A matcher for a Lark grammar.
    fn grammar(&self, py: Python<'_>, text: String) -> PyResult<ConstraintMatcher> {
        self.compile(py, Grammar::Lark(text))
    }
}

impl ConstraintVocabulary {
    /// llguidance cannot be told to stop: after Ctrl-C it goes on by itself to its end, which its limits bound.
    fn compile(&self, py: Python<'_>, grammar: Grammar) -> PyResult<ConstraintMatcher> {
        let vocabulary = Arc::clone(&self.0);
        let matcher = interrupt::abandon(py, move || vocabulary.compile(&grammar))?;
        matcher.map(ConstraintMatcher::of).map_err(argument_error)
    }
}

/// Behind a lock, so that a second thread waits for its turn instead of meeting a borrowed object.
#[pyclass(module = "wordkiln._rust", frozen)]
struct ConstraintMatcher(Mutex<constraint::Matcher>);

impl ConstraintMatcher {
    fn lock(&self) -> MutexGuard<'_, constraint::Matcher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(matcher: constraint::Matcher) -> Self {
        Self(Mutex::new(matcher))
    }
}

#[pymethods]
impl ConstraintMatcher {
    /// A copy that goes its own way, and shares what has been computed.
    fn copy(&self, py: Python<'_>) -> Self {
        py.detach(|| Self::of(self.lock().clone()))
    }

    /// A copy that shares nothing.
    fn fresh(&self, py: Python<'_>) -> Self {
        py.detach(|| Self::of(self.lock().fresh()))
    }

    fn commit(&self, py: Python<'_>, id: u32) -> PyResult<()> {
        py.detach(|| self.lock().commit(id)).map_err(argument_error)
    }

    #[getter]
    fn is_accepting(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.lock().is_accepting()).map_err(argument_error)
    }

    #[getter]
    fn is_finished(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().is_finished())
    }
}

/// Fills a row of `masks` for each matcher.
#[pyfunction]
fn fill_masks(
    py: Python<'_>,
    matchers: Vec<PyRef<'_, ConstraintMatcher>>,
    mut masks: PyReadwriteArray2<'_, u32>,
) -> PyResult<()> {
    let rows = masks.shape()[0];
    let masks = masks.as_slice_mut().map_err(|_| ArgumentError::new_err("masks: must be C-contiguous"))?;
    if rows != matchers.len() {
        return Err(ArgumentError::new_err(format!(
            "masks: {rows} rows: must be {}, as many as matchers",
            matchers.len()
        )));
    }
    let matchers: Vec<&Mutex<constraint::Matcher>> = matchers.iter().map(|matcher| &matcher.0).collect();
    py.detach(|| threads::install(|| constraint::fill_masks(&matchers, masks))).map_err(argument_error)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ConstraintVocabulary>()?;
    m.add_class::<ConstraintMatcher>()?;
    m.add_function(wrap_pyfunction!(fill_masks, m)?)
}
