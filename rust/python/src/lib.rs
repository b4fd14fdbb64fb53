//! `wordkiln._rust`: converts, releases the GIL, calls the pure crates, maps their errors. Nothing else.

mod beam;
mod constraint;
mod errors;
mod gguf;
mod interrupt;
mod ints;
mod sampler;
mod threads;
mod tokenizer;
mod tokenizer_stream;
mod tokenizer_tables;
mod tokenizer_train;

use pyo3::prelude::*;

#[pymodule]
fn _rust(m: &Bound<'_, PyModule>) -> PyResult<()> {
    threads::register(m)?;
    sampler::register(m)?;
    beam::register(m)?;
    constraint::register(m)?;
    gguf::register(m)?;
    tokenizer::register(m)?;
    tokenizer_tables::register(m)?;
    tokenizer_train::register(m)
}
