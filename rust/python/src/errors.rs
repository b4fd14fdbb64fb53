//! Errors of the pure crates as the Python exceptions that fit them.

use pyo3::import_exception;
use pyo3::prelude::*;
use wordkiln_bpe::Error;

import_exception!(wordkiln.errors, ArgumentError);
import_exception!(wordkiln.errors, FormatError);
import_exception!(wordkiln.errors, PathError);

/// The exception for an error of the tokenizer.
pub fn tokenizer_error(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Format(_) => FormatError::new_err(message),
        Error::Path { .. } => PathError::new_err(message),
        _ => ArgumentError::new_err(message),
    }
}
