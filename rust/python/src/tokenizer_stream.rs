//! `DecodeStream`: ids to text as they come.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyString;
use wordkiln_bpe::Tokenizer;

use crate::errors::tokenizer_error;
use crate::tokenizer::{readable, unknown_id};

/// Turns ids into text one at a time; never gives a part of a character.
#[pyclass(frozen, module = "wordkiln._rust")]
pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    state: Mutex<wordkiln_bpe::DecodeStream>,
}

impl DecodeStream {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, state: Mutex::default() }
    }
}

#[pymethods]
impl DecodeStream {
    /// The text that is whole after this id.
    fn push<'py>(&self, py: Python<'py>, id: i64) -> PyResult<Bound<'py, PyString>> {
        let id = u32::try_from(id).map_err(|_| unknown_id(id, self.tokenizer.vocab_size()))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = state.push(&self.tokenizer, id).map_err(tokenizer_error)?;
        readable(py, &text)
    }

    /// The rest: bytes that never became a character are U+FFFD. The stream is as new afterwards.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let text = self.state.lock().unwrap_or_else(PoisonError::into_inner).finish();
        readable(py, &text)
    }
}
