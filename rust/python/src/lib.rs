//! `wordkiln._rust`: converts, releases the GIL, calls the pure crates, maps their errors. Nothing else.

mod sampler;
mod threads;

use pyo3::prelude::*;

#[pymodule]
fn _rust(m: &Bound<'_, PyModule>) -> PyResult<()> {
    threads::register(m)?;
    sampler::register(m)
}
