//! What of a GGUF file's head is too much for Python: the strings of a vocabulary, a hundred thousand of them.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::errors::FormatError;

/// `count` strings, each behind its length in 8 bytes (little endian), from byte `at` of `data` on; what is not UTF-8 in
/// them becomes U+FFFD. And where the last one ends.
#[pyfunction]
fn read_strings<'py>(
    py: Python<'py>,
    data: PyBuffer<u8>,
    mut at: usize,
    count: usize,
) -> PyResult<(Bound<'py, PyList>, usize)> {
    if !data.is_c_contiguous() {
        return Err(FormatError::new_err("data: must be contiguous"));
    }
    let size = data.len_bytes();
    let part = |from: usize, length: usize| -> Vec<u8> {
        let mut bytes = vec![0; length];
        // SAFETY: from + length <= size, which every caller has checked, lie at the pointer as long as `data` lives; they
        // are copied, so that a file that changes meanwhile changes no text that Rust has looked at.
        unsafe { std::ptr::copy_nonoverlapping(data.buf_ptr().cast::<u8>().add(from), bytes.as_mut_ptr(), length) };
        bytes
    };
    let list = PyList::empty(py);
    for _ in 0..count {
        let begin = at.checked_add(8).filter(|&begin| begin <= size);
        let begin = begin.ok_or_else(|| FormatError::new_err(format!("truncated: a string at byte {at} of {size}")))?;
        let length = part(at, 8).iter().rev().fold(0, |length, &byte| length << 8 | u64::from(byte));
        if length > (size - begin) as u64 {
            let message = format!("truncated: a string of {length} bytes at byte {begin} of {size}");
            return Err(FormatError::new_err(message));
        }
        at = begin + length as usize;
        list.append(PyString::new(py, &String::from_utf8_lossy(&part(begin, length as usize))))?;
    }
    Ok((list, at))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(read_strings, m)?)
}
