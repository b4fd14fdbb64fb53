//! `train_tokenizer`: training from files or from an iterator.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyIterator;
use wordkiln_bpe::{Cancel, Pattern, Progress, TrainOptions, Trainer};

use crate::errors::tokenizer_error;
use crate::interrupt;
use crate::tokenizer::{Text, TokenizerCore};

/// Text taken from the iterator before it is counted.
const BATCH: usize = 8 << 20;

/// Calls `progress(phase, done, total)` with what the other thread has done.
struct Report<'a> {
    callback: Option<&'a Py<PyAny>>,
    progress: &'a Progress,
    bytes: Option<u64>,
    merges: u64,
}

impl Report<'_> {
    fn reading(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, "reading", self.progress.bytes(), self.bytes)
    }

    fn merging(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, "merging", self.progress.merges(), Some(self.merges))
    }

    fn call(&self, py: Python<'_>, phase: &str, done: u64, total: Option<u64>) -> PyResult<()> {
        self.callback.map_or(Ok(()), |callback| callback.call1(py, (phase, done, total)).map(drop))
    }
}

/// Trains on the files `paths`, or on the texts of an iterator.
#[pyfunction]
#[pyo3(signature = (paths, texts, *, vocab_size, pattern, special_tokens, min_frequency, max_memory, progress))]
#[expect(clippy::too_many_arguments, reason = "the names are the interface")]
fn train_tokenizer(
    py: Python<'_>,
    paths: Vec<PathBuf>,
    texts: Option<Bound<'_, PyIterator>>,
    vocab_size: usize,
    pattern: &str,
    special_tokens: Vec<String>,
    min_frequency: u64,
    max_memory: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<TokenizerCore> {
    let pattern = Pattern::from_name(pattern).map_err(tokenizer_error)?;
    let merges = vocab_size.saturating_sub(256 + special_tokens.len()) as u64;
    let options = TrainOptions { vocab_size, pattern, special_tokens, min_frequency, max_memory };
    let mut trainer = Trainer::new(options).map_err(tokenizer_error)?;
    let done = Progress::default();
    let cancel = Cancel::new();
    let bytes = texts.is_none().then(|| paths.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum());
    let report = Report { callback: progress.as_ref(), progress: &done, bytes, merges };
    for path in &paths {
        let read = || trainer.feed_file(path, &cancel, &done);
        interrupt::run(py, &cancel, read, |py| report.reading(py))?.map_err(tokenizer_error)?;
    }
    if let Some(texts) = texts {
        feed(py, &mut trainer, texts, &cancel, &report)?;
    }
    report.reading(py)?;
    let merge = || trainer.finish(&cancel, &done);
    let tokenizer = interrupt::run(py, &cancel, merge, |py| report.merging(py))?;
    report.merging(py)?;
    TokenizerCore::wrap(tokenizer)
}

fn feed(
    py: Python<'_>,
    trainer: &mut Trainer,
    mut texts: Bound<'_, PyIterator>,
    cancel: &Cancel,
    report: &Report<'_>,
) -> PyResult<()> {
    loop {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for text in texts.by_ref() {
            let text = Text::new(&text?)?;
            bytes += text.as_bytes()?.len();
            batch.push(text);
            if bytes >= BATCH {
                break;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let slices: Vec<&[u8]> = batch.iter().map(Text::as_bytes).collect::<PyResult<_>>()?;
        let count = || trainer.feed(&slices, cancel, report.progress);
        interrupt::run(py, cancel, count, |py| report.reading(py))?.map_err(tokenizer_error)?;
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(train_tokenizer, m)?)
}
