//! `train_tokenizer`: training from files, from an iterator of texts, or from a table of counts.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyIterator;
use wordkiln_bpe::{Cancel, Corpus, Pattern, Progress, Ties, TrainOptions, Trainer};

use crate::errors::{ArgumentError, tokenizer_error};
use crate::interrupt;
use crate::tokenizer::{Text, TokenizerCore};

/// Text taken from the iterator before it is counted.
const BATCH: usize = 8 << 20;
/// Texts so taken.
const TEXTS: usize = 1 << 16;

/// Paths or else texts, their weight, and whether each text comes as (text, count).
type Source<'py> = (Vec<PathBuf>, Option<Bound<'py, PyIterator>>, u64, bool);

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

/// Trains on all sources together.
#[pyfunction]
#[pyo3(signature = (sources, *, vocab_size, pattern, special_tokens, min_frequency, max_memory, ties, initial_alphabet, base, progress))]
#[expect(clippy::too_many_arguments, reason = "the names are the interface")]
fn train_tokenizer(
    py: Python<'_>,
    sources: Vec<Source<'_>>,
    vocab_size: usize,
    pattern: Option<&str>,
    special_tokens: Vec<String>,
    min_frequency: u64,
    max_memory: Option<u64>,
    ties: &str,
    initial_alphabet: Vec<char>,
    base: Option<Py<TokenizerCore>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<TokenizerCore> {
    let base = base.map(|base| Arc::clone(&base.get().0));
    let options = TrainOptions {
        vocab_size,
        pattern: pattern_of(pattern, base.as_deref())?,
        special_tokens,
        min_frequency,
        max_memory,
        ties: ties_of(ties)?,
        initial_alphabet,
        base,
    };
    let mut trainer = Trainer::new(options).map_err(tokenizer_error)?;
    let done = Progress::default();
    let cancel = Cancel::new();
    let merges = trainer.tokens() as u64;
    let report = Report { callback: progress.as_ref(), progress: &done, bytes: total_bytes(&sources), merges };
    for (paths, texts, weight, counted) in sources {
        if !paths.is_empty() {
            let read = || trainer.feed_files(&paths, weight, &cancel, &done);
            interrupt::run(py, &cancel, read, |py| report.reading(py))?.map_err(tokenizer_error)?;
        }
        if let Some(mut texts) = texts {
            let batch = max_memory.map_or(BATCH, |limit| BATCH.min(limit as usize / 16));
            while feed_batch(py, &mut trainer, &mut texts, (weight, counted, batch), &cancel, &report)? {}
        }
    }
    report.reading(py)?;
    let merge = || trainer.finish(&cancel, &done);
    let tokenizer = interrupt::run(py, &cancel, merge, |py| report.merging(py))?;
    report.merging(py)?;
    TokenizerCore::wrap(tokenizer)
}

fn pattern_of(name: Option<&str>, base: Option<&wordkiln_bpe::Tokenizer>) -> PyResult<Pattern> {
    let named = name.map(Pattern::from_name).transpose().map_err(tokenizer_error)?;
    match (named, base.map(wordkiln_bpe::Tokenizer::pattern)) {
        (Some(named), Some(own)) if named != *own => Err(ArgumentError::new_err(format!(
            "pattern={:?}: the tokenizer to start from has {:?}, which cannot change",
            named.name(),
            own.name()
        ))),
        (_, Some(own)) => Ok(own.clone()),
        (named, None) => Ok(named.unwrap_or(Pattern::Cl100k)),
    }
}

fn ties_of(name: &str) -> PyResult<Ties> {
    match name {
        "alphabet" => Ok(Ties::Alphabet),
        "bytes" => Ok(Ties::Bytes),
        _ => Err(ArgumentError::new_err(format!("ties={name:?}: must be \"alphabet\" or \"bytes\""))),
    }
}

/// What there is to read, if all of it is in files.
fn total_bytes(sources: &[Source<'_>]) -> Option<u64> {
    let files = sources.iter().all(|(_, texts, ..)| texts.is_none());
    let paths = sources.iter().flat_map(|(paths, ..)| paths);
    files.then(|| paths.filter_map(|path| Some(path.metadata().ok()?.len())).sum())
}

/// Counts the next texts; false if there are none.
fn feed_batch(
    py: Python<'_>,
    trainer: &mut Trainer,
    texts: &mut Bound<'_, PyIterator>,
    (weight, counted, most): (u64, bool, usize),
    cancel: &Cancel,
    report: &Report<'_>,
) -> PyResult<bool> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < most && batch.len() < TEXTS {
        let Some(item) = texts.next() else { break };
        let (text, count) = if counted { counted_text(&item?)? } else { (Text::new(&item?)?, 1) };
        bytes += text.as_bytes()?.len();
        batch.push((text, weight.saturating_mul(count)));
    }
    if batch.is_empty() {
        return Ok(false);
    }
    let slices: Vec<Corpus<'_>> = batch
        .iter()
        .map(|(text, weight)| Ok(Corpus { text: text.as_bytes()?, weight: *weight }))
        .collect::<PyResult<_>>()?;
    let count = || trainer.feed(&slices, cancel, report.progress);
    interrupt::run(py, cancel, count, |py| report.reading(py))?.map_err(tokenizer_error)?;
    Ok(true)
}

fn counted_text<'py>(item: &Bound<'py, PyAny>) -> PyResult<(Text<'py>, u64)> {
    let (text, count): (Bound<'py, PyAny>, Bound<'py, PyAny>) = item.extract()?;
    let wrong =
        |_| ArgumentError::new_err(format!("source: the count of {text:?} is {count:?}; must be 1 to 2**64 - 1"));
    let number = count.extract::<std::num::NonZeroU64>().map_err(wrong)?;
    Ok((Text::new(&text)?, number.get()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(train_tokenizer, m)?)
}
