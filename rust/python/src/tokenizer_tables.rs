//! What a tokenizer is made of, and where in a text its ids come from.

use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use wordkiln_bpe::{Cancel, Pattern, pre_tokenizer_json, to_characters};

use crate::errors::tokenizer_error;
use crate::interrupt;
use crate::tokenizer::{Choice, Text, TokenizerCore};

/// The ids of a text, and for each its start and end: in characters of a str, or in bytes.
#[pyfunction]
#[pyo3(signature = (tokenizer, text, *, characters, allowed_special, disallowed_special))]
fn tokenizer_offsets<'py>(
    py: Python<'py>,
    tokenizer: &TokenizerCore,
    text: &Bound<'py, PyAny>,
    characters: bool,
    allowed_special: Choice,
    disallowed_special: Choice,
) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyArray2<i64>>)> {
    let text = Text::new(text)?;
    let bytes = text.as_bytes()?;
    let cancel = Cancel::new();
    let encode = || {
        let mut found = tokenizer.0.encode_with_offsets(bytes, &allowed_special.0, &disallowed_special.0, &cancel)?;
        if characters {
            to_characters(bytes, &mut found.offsets);
        }
        Ok(found)
    };
    let found = interrupt::run(py, &cancel, encode, |_| Ok(()))?.map_err(tokenizer_error)?;
    let flat: Vec<i64> = found.offsets.iter().flat_map(|&(start, end)| [start as i64, end as i64]).collect();
    let rows = found.ids.len();
    Ok((PyList::new(py, found.ids)?, flat.into_pyarray(py).reshape([rows, 2])?))
}

/// The pairs of ids that are merged, in order.
#[pyfunction]
fn tokenizer_merges(tokenizer: &TokenizerCore) -> Vec<(u32, u32)> {
    tokenizer.0.merges().iter().map(|merge| (merge.left, merge.right)).collect()
}

/// Ids and bytes of all tokens, special ones too.
#[pyfunction]
fn tokenizer_vocabulary<'py>(py: Python<'py>, tokenizer: &TokenizerCore) -> PyResult<Bound<'py, PyDict>> {
    let vocabulary = PyDict::new(py);
    for id in 0..tokenizer.0.vocab_size() as u32 {
        if let Ok(bytes) = tokenizer.0.token(id) {
            vocabulary.set_item(id, PyBytes::new(py, bytes))?;
        }
    }
    Ok(vocabulary)
}

/// tokenizer.json's `post_processor`, as JSON.
#[pyfunction]
fn tokenizer_post_processor(tokenizer: &TokenizerCore) -> Option<String> {
    tokenizer.0.post_processor().map(str::to_owned)
}

/// The last place where a text can be cut so that its parts have the ids of the whole; none for some texts.
#[pyfunction]
fn tokenizer_last_cut(py: Python<'_>, tokenizer: &TokenizerCore, text: &Bound<'_, PyBytes>) -> Option<usize> {
    let text = text.as_bytes();
    py.detach(|| tokenizer.0.last_safe_start(text))
}

/// The `pre_tokenizer` of a tokenizer.json for a pattern.
#[pyfunction]
fn pattern_json(py: Python<'_>, pattern: &str) -> PyResult<String> {
    py.detach(|| Pattern::from_name(pattern)).map(|pattern| pre_tokenizer_json(&pattern)).map_err(tokenizer_error)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tokenizer_offsets, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_merges, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_vocabulary, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_post_processor, m)?)?;
    m.add_function(wrap_pyfunction!(tokenizer_last_cut, m)?)?;
    m.add_function(wrap_pyfunction!(pattern_json, m)?)
}
