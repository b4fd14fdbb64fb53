//! `TokenizerCore`: what `wordkiln.Tokenizer` is built on.

use std::sync::Arc;

use numpy::{IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString};
use wordkiln_bpe::{Allowed, Cancel, Encoded, Error, Id, Pattern, Tokenizer, from_json, from_tiktoken, lossy_utf8};

use crate::errors::{ArgumentError, tokenizer_error};
use crate::interrupt;
use crate::ints::Ints;
use crate::tokenizer_stream::DecodeStream;

/// Text up to this many bytes is encoded at once, with the GIL held: letting go would take longer.
const BRIEF: usize = 1 << 11;
/// Text from this many bytes on is encoded on another thread, so that this one can answer Ctrl-C.
const LONG: usize = 1 << 20;
/// Texts with up to this many bytes together are encoded by one thread: calling others would take as long.
const SINGLE: usize = 1 << 15;
/// The most ids that uint16 can tell apart.
const NARROW: usize = 1 << 16;

/// Text as bytes: UTF-8, with lone surrogates in their three-byte form; or bytes as they are.
pub enum Text<'py> {
    Utf8(Bound<'py, PyString>),
    Bytes(Bound<'py, PyBytes>),
}

impl<'py> Text<'py> {
    pub fn new(text: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = text.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone()));
        }
        let Ok(string) = text.cast::<PyString>() else {
            return Err(ArgumentError::new_err(format!("text: must be str or bytes, not {}", text.get_type().name()?)));
        };
        if string.to_str().is_ok() {
            return Ok(Self::Utf8(string.clone()));
        }
        let encoded = string.call_method1("encode", ("utf-8", "surrogatepass"))?;
        Ok(Self::Bytes(encoded.cast_into::<PyBytes>()?))
    }

    pub fn as_bytes(&self) -> PyResult<&[u8]> {
        match self {
            Self::Utf8(string) => Ok(string.to_str()?.as_bytes()),
            Self::Bytes(bytes) => Ok(bytes.as_bytes()),
        }
    }
}

/// What stands for special tokens in `allowed_special` and `disallowed_special`: "all" or a collection of their texts.
pub struct Choice(pub Allowed);

impl<'py> FromPyObject<'_, 'py> for Choice {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let wrong =
            || ArgumentError::new_err("allowed_special and disallowed_special: must be \"all\" or a collection of str");
        if let Ok(string) = value.cast::<PyString>() {
            return if string.to_str()? == "all" { Ok(Self(Allowed::All)) } else { Err(wrong()) };
        }
        let names = value.try_iter().map_err(|_| wrong())?;
        names
            .map(|name| name?.extract::<String>().map_err(|_| wrong()))
            .collect::<PyResult<_>>()
            .map(|names| Self(Allowed::Some(names)))
    }
}

impl Choice {
    pub fn nothing() -> Self {
        Self(Allowed::Some(Vec::new()))
    }

    pub fn all() -> Self {
        Self(Allowed::All)
    }
}

/// Byte-level BPE, immutable.
#[pyclass(subclass, frozen, module = "wordkiln._rust")]
pub struct TokenizerCore(pub Arc<Tokenizer>, Arc<Ints>);

impl TokenizerCore {
    pub fn wrap(tokenizer: Result<Tokenizer, Error>) -> PyResult<Self> {
        let tokenizer = tokenizer.map_err(tokenizer_error)?;
        let ints = Ints::new(tokenizer.vocab_size());
        Ok(Self(Arc::new(tokenizer), Arc::new(ints)))
    }

    fn encode_all<T: Id>(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        allowed: &Allowed,
        disallowed: &Allowed,
    ) -> PyResult<Encoded<T>> {
        let single = texts.is_instance_of::<PyString>() || texts.is_instance_of::<PyBytes>();
        let iterator = texts.try_iter().ok().filter(|_| !single);
        let iterator = iterator.ok_or_else(|| ArgumentError::new_err("texts: must be a collection of str or bytes"))?;
        let texts: Vec<Text<'_>> = iterator.map(|text| Text::new(&text?)).collect::<PyResult<_>>()?;
        let texts: Vec<&[u8]> = texts.iter().map(Text::as_bytes).collect::<PyResult<_>>()?;
        let cancel = Cancel::new();
        let encode = || self.0.encode_batch(&texts, allowed, disallowed, &cancel);
        let total: usize = texts.iter().map(|text| text.len()).sum();
        let encoded = if total <= BRIEF {
            self.0.encode_few(&texts, allowed, disallowed, &cancel)
        } else if total <= SINGLE {
            py.detach(|| self.0.encode_few(&texts, allowed, disallowed, &cancel))
        } else {
            interrupt::run(py, &cancel, encode, |_| Ok(()))?
        };
        encoded.map_err(tokenizer_error)
    }

    /// What `give` makes of the ids of a text.
    fn encode_one<R>(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        allowed: &Allowed,
        disallowed: &Allowed,
        give: impl FnOnce(&[u32]) -> R,
    ) -> PyResult<R> {
        let text = Text::new(text)?;
        let text = text.as_bytes()?;
        let cancel = Cancel::new();
        if text.len() <= BRIEF {
            return self.0.encode_brief(text, allowed, disallowed, &cancel, give).map_err(tokenizer_error);
        }
        let ids = if text.len() <= LONG {
            py.detach(|| self.0.encode(text, allowed, disallowed, &cancel))
        } else {
            let encode = || self.0.encode_batch(&[text], allowed, disallowed, &cancel).map(|encoded| encoded.ids);
            interrupt::run(py, &cancel, encode, |_| Ok(()))?
        };
        ids.map(|ids| give(&ids)).map_err(tokenizer_error)
    }
}

#[pymethods]
impl TokenizerCore {
    /// From the content of a tokenizer.json, or sharing the content of another tokenizer.
    #[new]
    fn new(py: Python<'_>, source: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(other) = source.cast::<Self>() {
            return Ok(Self(Arc::clone(&other.get().0), Arc::clone(&other.get().1)));
        }
        let Ok(json) = source.cast::<PyBytes>() else {
            return Err(ArgumentError::new_err(
                "source: must be the bytes of a tokenizer.json (Tokenizer.load reads files, Tokenizer.train trains)",
            ));
        };
        let json = json.as_bytes();
        Self::wrap(py.detach(|| from_json(json)))
    }

    /// The ids of a text.
    #[pyo3(signature = (text, *, allowed_special = Choice::nothing(), disallowed_special = Choice::all()))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyAny>,
        allowed_special: Choice,
        disallowed_special: Choice,
    ) -> PyResult<Bound<'py, PyList>> {
        self.encode_one(py, text, &allowed_special.0, &disallowed_special.0, |ids| self.1.list(py, ids))?
    }

    /// The number of ids of a text.
    #[pyo3(signature = (text, *, allowed_special = Choice::nothing(), disallowed_special = Choice::all()))]
    fn count(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyAny>,
        allowed_special: Choice,
        disallowed_special: Choice,
    ) -> PyResult<usize> {
        self.encode_one(py, text, &allowed_special.0, &disallowed_special.0, <[u32]>::len)
    }

    /// The ids of each text, on all threads.
    #[pyo3(signature = (texts, *, allowed_special = Choice::nothing(), disallowed_special = Choice::all()))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        allowed_special: Choice,
        disallowed_special: Choice,
    ) -> PyResult<Bound<'py, PyList>> {
        let Encoded { ids, offsets } = self.encode_all(py, texts, &allowed_special.0, &disallowed_special.0)?;
        let lists = offsets.windows(2).map(|ends| self.1.list(py, &ids[ends[0] as usize..ends[1] as usize]));
        PyList::new(py, lists.collect::<PyResult<Vec<_>>>()?)
    }

    /// The ids of all texts in one array, and where each text starts in it.
    #[pyo3(signature = (texts, *, allowed_special = Choice::nothing(), disallowed_special = Choice::all()))]
    fn encode_flat<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        allowed_special: Choice,
        disallowed_special: Choice,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<i64>>)> {
        let (allowed, disallowed) = (&allowed_special.0, &disallowed_special.0);
        let (ids, offsets) = if self.0.vocab_size() <= NARROW {
            let Encoded::<u16> { ids, offsets } = self.encode_all(py, texts, allowed, disallowed)?;
            (ids.into_pyarray(py).into_any(), offsets)
        } else {
            let Encoded::<u32> { ids, offsets } = self.encode_all(py, texts, allowed, disallowed)?;
            (ids.into_pyarray(py).into_any(), offsets)
        };
        Ok((ids, offsets.into_pyarray(py)))
    }

    /// The bytes that the ids stand for.
    fn decode_bytes<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.decode_ids(py, ids)?))
    }

    /// The text that the ids stand for.
    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
        let bytes = self.decode_ids(py, ids)?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            return Ok(PyString::new(py, text));
        }
        readable(py, &py.detach(|| lossy_utf8(&bytes, true).0))
    }

    /// A stream that turns ids into text as they come.
    fn decode_stream(&self) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.0))
    }

    /// The bytes of one id.
    fn token_bytes<'py>(&self, py: Python<'py>, id: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let id = self.check_id(id.extract().map_err(|_| ArgumentError::new_err("id: must be an integer"))?)?;
        Ok(PyBytes::new(py, self.0.token(id).map_err(tokenizer_error)?))
    }

    /// The content of a tokenizer.json.
    fn to_json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let json = py.detach(|| wordkiln_bpe::to_json(&self.0)).map_err(tokenizer_error)?;
        Ok(PyBytes::new(py, &json))
    }

    /// The content of a tiktoken rank file.
    fn to_tiktoken_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let file = py.detach(|| wordkiln_bpe::to_tiktoken(&self.0)).map_err(tokenizer_error)?;
        Ok(PyBytes::new(py, &file))
    }

    /// One more than the highest id.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    /// The name of the pattern.
    #[getter]
    fn pattern(&self) -> &str {
        self.0.pattern().name()
    }

    /// Special tokens and their ids.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tokens = PyDict::new(py);
        for token in self.0.special_tokens() {
            tokens.set_item(&token.content, token.id)?;
        }
        Ok(tokens)
    }

    /// SHA-256 (hex) of all that decides what ids a text gets.
    #[getter]
    fn fingerprint(&self, py: Python<'_>) -> String {
        py.detach(|| self.0.fingerprint().to_owned())
    }

    fn __len__(&self) -> usize {
        self.0.vocab_size()
    }
}

impl TokenizerCore {
    pub fn check_id(&self, id: i64) -> PyResult<u32> {
        u32::try_from(id).map_err(|_| unknown_id(id, self.0.vocab_size()))
    }

    fn decode_ids(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let ids = self.read_ids(ids)?;
        py.detach(|| self.0.decode(&ids)).map_err(tokenizer_error)
    }

    fn read_ids(&self, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let wrong = || ArgumentError::new_err("ids: must be a sequence of integers");
        if let Ok(list) = ids.cast::<PyList>() {
            // Collecting results would let the vector grow step by step.
            let mut ids = Vec::with_capacity(list.len());
            for id in list.iter() {
                ids.push(self.check_id(integer(&id).ok_or_else(wrong)?)?);
            }
            return Ok(ids);
        }
        if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, u16>>() {
            return Ok(array.as_array().iter().map(|&id| u32::from(id)).collect());
        }
        if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, u32>>() {
            return Ok(array.as_array().to_vec());
        }
        if let Ok(array) = ids.cast::<PyArray1<i64>>() {
            return array.readonly().as_array().iter().map(|&id| self.check_id(id)).collect();
        }
        let ids = ids.try_iter().map_err(|_| wrong())?;
        ids.map(|id| self.check_id(id?.extract().map_err(|_| wrong())?)).collect()
    }
}

/// The value of an int, or of what can be one, if it is that small.
#[inline(always)]
fn integer(value: &Bound<'_, PyAny>) -> Option<i64> {
    if value.is_exact_instance_of::<PyInt>() {
        // SAFETY: an int, and the GIL is held.
        let number = unsafe { ffi::PyLong_AsLongLong(value.as_ptr()) };
        // An int that is too large is asked again below, which clears the exception.
        if number != -1 {
            return Some(number);
        }
        PyErr::take(value.py());
    }
    value.extract().ok()
}

pub fn unknown_id(id: i64, size: usize) -> PyErr {
    ArgumentError::new_err(format!("id {id}: must be 0 to {}", size.saturating_sub(1)))
}

/// A str of text that may hold lone surrogates in their three-byte form.
pub fn readable<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(PyString::new(py, text)),
        Err(_) => PyString::from_encoded_object(&PyBytes::new(py, bytes), Some(c"utf-8"), Some(c"surrogatepass")),
    }
}

/// From the content of a tiktoken rank file.
#[pyfunction]
fn tokenizer_from_tiktoken(
    py: Python<'_>,
    ranks: &Bound<'_, PyBytes>,
    pattern: &str,
    special_tokens: Vec<(String, u32)>,
) -> PyResult<TokenizerCore> {
    let pattern = Pattern::from_name(pattern).map_err(tokenizer_error)?;
    let ranks = ranks.as_bytes();
    TokenizerCore::wrap(py.detach(|| from_tiktoken(ranks, pattern, special_tokens)))
}

/// The pre-tokens of a text.
#[pyfunction]
fn pretokenize<'py>(py: Python<'py>, text: &Bound<'py, PyAny>, pattern: &str) -> PyResult<Bound<'py, PyList>> {
    let pattern = Pattern::from_name(pattern).map_err(tokenizer_error)?;
    let text = Text::new(text)?;
    let text = text.as_bytes()?;
    let pieces = py.detach(|| wordkiln_bpe::pretokenize(text, &pattern)).map_err(tokenizer_error)?;
    PyList::new(py, pieces.into_iter().map(|piece| PyBytes::new(py, piece)).collect::<Vec<_>>())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TokenizerCore>()?;
    m.add_class::<DecodeStream>()?;
    m.add_function(wrap_pyfunction!(tokenizer_from_tiktoken, m)?)?;
    m.add_function(wrap_pyfunction!(pretokenize, m)?)
}
