//! Hugging Face's tokenizer.json, for byte-level BPE.

use std::fmt;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::pre_tokenizer;
use crate::Error;
use crate::merges::Merge;
use crate::special::{Flags, SpecialToken};
use crate::tokenizer::{Parts, Tokenizer};
use crate::vocabulary::{ByteSpelling, MAX_VOCABULARY};

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Option<Box<RawValue>>,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(serde::Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    vocab: Option<Vocab>,
    #[serde(default)]
    merges: Option<Merges>,
}

/// The entries of `vocab` as they stand there: a map would hide duplicates.
struct Vocab(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map from token to id (a byte-level BPE vocabulary)")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    check_size("vocab", entries.len())?;
                    entries.push(entry);
                }
                Ok(Vocab(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

struct Merges(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Merges;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut entries = Vec::new();
                while let Some(MergePair(left, right)) = list.next_element()? {
                    check_size("merges", entries.len())?;
                    entries.push((left, right));
                }
                Ok(Merges(entries))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

fn check_size<E: de::Error>(field: &str, length: usize) -> Result<(), E> {
    if length < MAX_VOCABULARY {
        Ok(())
    } else {
        Err(E::custom(format_args!("{field} has more than {MAX_VOCABULARY} entries, the limit")))
    }
}

/// `"left right"` or `["left", "right"]`.
struct MergePair(String, String);

impl<'de> Deserialize<'de> for MergePair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = MergePair;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MergePair, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => Ok(MergePair(left.into(), right.into())),
                    _ => Err(E::custom(format_args!("merge {text:?} is not two tokens with a space between"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MergePair, A::Error> {
                let missing = || de::Error::custom("a merge has fewer than two tokens");
                let left = list.next_element()?.ok_or_else(missing)?;
                let right = list.next_element()?.ok_or_else(missing)?;
                if list.next_element::<de::IgnoredAny>()?.is_some() {
                    return Err(de::Error::custom("a merge has more than two tokens"));
                }
                Ok(MergePair(left, right))
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// A tokenizer from the text of a tokenizer.json. Whatever it cannot follow exactly is an error that names it.
pub fn from_json(json: &[u8]) -> Result<Tokenizer, Error> {
    let file: File =
        serde_json::from_slice(json).map_err(|error| Error::format(format!("not a tokenizer.json: {error}")))?;
    check_features(&file)?;
    let pattern = pre_tokenizer::read(&file.pre_tokenizer)?;
    let vocab = file.model.vocab.map(|vocab| vocab.0).unwrap_or_default();
    let merges = file.model.merges.map(|merges| merges.0).unwrap_or_default();
    let specials = special_tokens(file.added_tokens)?;
    let tokens = read_tokens(&vocab, &specials)?;
    let merges = read_merges(&merges, &vocab, &tokens)?;
    let unknown = file.model.unk_token;
    let tokenizer = Tokenizer::new(Parts {
        pattern,
        tokens,
        merges,
        specials,
        whole_pieces: file.model.ignore_merges,
        nfc: normalizer(&file.normalizer)?,
        post_processor: file.post_processor.map(|raw| raw.get().to_owned()).filter(|raw| raw != "null"),
    })
    .map_err(|error| match error {
        Error::Argument(message) => Error::Format(message),
        other => other,
    })?;
    match (&tokenizer.missing, unknown) {
        (Some(missing), Some(unknown)) => Err(Error::format(format!(
            "model.unk_token {unknown:?} stands for byte 0x{:02x}, which has no token: not taken by this tokenizer",
            missing.first()
        ))),
        _ => Ok(tokenizer),
    }
}

fn check_features(file: &File) -> Result<(), Error> {
    let model = &file.model;
    let unsupported = |feature: &str| Err(Error::format(format!("{feature}: not taken by this tokenizer")));
    match model.kind.as_deref() {
        Some("BPE") | None => {}
        Some(kind) => return Err(Error::format(format!("model.type {kind:?}: only \"BPE\" (byte-level) is taken"))),
    }
    if model.vocab.is_none() {
        return Err(Error::format("model.vocab is missing"));
    }
    if model.merges.is_none() {
        return Err(Error::format("model.merges is missing"));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return unsupported("model.dropout");
    }
    if model.continuing_subword_prefix.as_deref().is_some_and(|prefix| !prefix.is_empty()) {
        return unsupported("model.continuing_subword_prefix");
    }
    if model.end_of_word_suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return unsupported("model.end_of_word_suffix");
    }
    if model.byte_fallback {
        return unsupported("model.byte_fallback (SentencePiece's)");
    }
    if !file.decoder.is_null() && file.decoder["type"] != "ByteLevel" {
        let kind = file.decoder["type"].as_str().unwrap_or("unknown");
        return unsupported(&format!("decoder {kind:?}"));
    }
    Ok(())
}

/// Whether text is brought into NFC.
fn normalizer(value: &Value) -> Result<bool, Error> {
    match value["type"].as_str() {
        None if value.is_null() => Ok(false),
        Some("NFC") => Ok(true),
        Some("Sequence") => {
            let steps = value["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
            steps.iter().try_fold(false, |nfc, step| Ok(normalizer(step)? || nfc))
        }
        kind => {
            let kind = kind.unwrap_or("unknown");
            Err(Error::format(format!("normalizer {kind:?}: not taken by this tokenizer (it takes \"NFC\" or none)")))
        }
    }
}

fn special_tokens(added: Vec<AddedToken>) -> Result<Vec<SpecialToken>, Error> {
    let mut ids = FxHashSet::default();
    added
        .into_iter()
        .map(|token| {
            let AddedToken { id, content, single_word, lstrip, rstrip, special, normalized } = token;
            if !ids.insert(id) {
                return Err(Error::format(format!("added tokens: id {id} stands there twice")));
            }
            let flags = Flags { single_word, lstrip, rstrip, normalized };
            Ok(SpecialToken { content, id, special, flags })
        })
        .collect()
}

/// Bytes by id; special tokens, which the vocabulary may list too, are left out.
fn read_tokens(vocab: &[(String, u32)], specials: &[SpecialToken]) -> Result<Vec<Vec<u8>>, Error> {
    let spelling = ByteSpelling::new();
    let special_ids: FxHashMap<&str, u32> = specials.iter().map(|token| (token.content.as_str(), token.id)).collect();
    let taken: FxHashSet<u32> = special_ids.values().copied().collect();
    let mut seen = FxHashSet::default();
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    let highest = vocab.iter().map(|&(_, id)| id as usize).max();
    if highest.is_some_and(|id| id >= MAX_VOCABULARY) {
        return Err(Error::format(format!(
            "model.vocab has id {}: the limit is {MAX_VOCABULARY}",
            highest.unwrap_or(0)
        )));
    }
    tokens.resize(highest.map_or(0, |id| id + 1), Vec::new());
    for (token, id) in vocab {
        if !seen.insert(token.as_str()) {
            return Err(Error::format(format!("model.vocab: token {token:?} stands there twice")));
        }
        match special_ids.get(token.as_str()) {
            Some(special_id) if special_id == id => continue,
            Some(special_id) => {
                return Err(Error::format(format!(
                    "token {token:?} has id {id} in model.vocab and {special_id} as added token"
                )));
            }
            None => {}
        }
        let bytes = spelling.read(token).filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| {
            Error::format(format!("model.vocab: token {token:?} is not spelled in byte-level characters"))
        })?;
        let slot = &mut tokens[*id as usize];
        if !slot.is_empty() || taken.contains(id) {
            return Err(Error::format(format!("model.vocab: id {id} stands there twice")));
        }
        *slot = bytes;
    }
    // Between the ordinary tokens no id may be missing; before a special token's some are, in real vocabularies.
    tokens.truncate(tokens.iter().rposition(|token| !token.is_empty()).map_or(0, |last| last + 1));
    match (0u32..).zip(&tokens).find(|(id, token)| token.is_empty() && !taken.contains(id)) {
        Some((id, _)) => Err(Error::format(format!("model.vocab: id {id} is missing"))),
        None => Ok(tokens),
    }
}

fn read_merges(merges: &[(String, String)], vocab: &[(String, u32)], tokens: &[Vec<u8>]) -> Result<Vec<Merge>, Error> {
    let index: FxHashMap<&str, u32> = vocab.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    let find = |token: &str, number: usize| {
        let id = index.get(token).copied().filter(|&id| !tokens[id as usize].is_empty());
        id.ok_or_else(|| {
            Error::format(format!("model.merges: merge {number} needs {token:?}, which is not in model.vocab"))
        })
    };
    let mut joined = String::new();
    merges
        .iter()
        .enumerate()
        .map(|(number, (left, right))| {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            Ok(Merge { left: find(left, number)?, right: find(right, number)?, result: find(&joined, number)? })
        })
        .collect()
}

/// The text of a tokenizer.json with which Hugging Face's `tokenizers` gives the same ids for every text.
pub fn to_json(tokenizer: &Tokenizer) -> Result<Vec<u8>, Error> {
    let spelling = ByteSpelling::new();
    let spell = |id: u32| tokenizer.vocabulary().get(id).map(|bytes| spelling.spell(bytes)).unwrap_or_default();
    let mut vocab: Vec<(u32, String)> =
        tokenizer.vocabulary().iter().map(|(id, bytes)| (id, spelling.spell(bytes))).collect();
    // Listed here too, special tokens keep their ids even where the ids before them are not used.
    vocab.extend(tokenizer.special_tokens().iter().map(|token| (token.id, token.content.clone())));
    vocab.sort_unstable();
    let mut known = FxHashSet::default();
    if let Some((_, twice)) = vocab.iter().find(|(_, token)| !known.insert(token.as_str())) {
        return Err(Error::Argument(format!("special_tokens: {twice:?} is how an ordinary token is spelled")));
    }
    let post_processor = tokenizer.post_processor().map(|raw| RawValue::from_string(raw.to_owned())).transpose();
    let post_processor = post_processor.map_err(written)?;
    let mut file = Vec::new();
    file.extend_from_slice(b"{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":");
    put(&mut file, &added_tokens(tokenizer))?;
    file.extend_from_slice(b",\n\"normalizer\":");
    put(&mut file, &tokenizer.normalizes().then(|| json!({"type": "NFC"})))?;
    file.extend_from_slice(b",\n\"pre_tokenizer\":");
    put(&mut file, &pre_tokenizer::write(tokenizer.pattern()))?;
    file.extend_from_slice(b",\n\"post_processor\":");
    put(&mut file, &post_processor)?;
    file.extend_from_slice(b",\n\"decoder\":");
    put(&mut file, &json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}))?;
    file.extend_from_slice(
        b",\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\
          \"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":",
    );
    put(&mut file, &tokenizer.takes_whole_pieces())?;
    file.extend_from_slice(b",\n\"vocab\":{");
    for (number, (id, token)) in vocab.iter().enumerate() {
        file.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
        put(&mut file, token)?;
        file.push(b':');
        put(&mut file, id)?;
    }
    file.extend_from_slice(b"},\n\"merges\":[");
    for (number, merge) in tokenizer.merges().iter().enumerate() {
        file.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
        put(&mut file, &[spell(merge.left), spell(merge.right)])?;
    }
    file.extend_from_slice(b"]}}\n");
    Ok(file)
}

fn added_tokens(tokenizer: &Tokenizer) -> Vec<Value> {
    let written = |token: &SpecialToken| {
        let Flags { single_word, lstrip, rstrip, normalized } = token.flags;
        json!({"id": token.id, "content": token.content, "single_word": single_word, "lstrip": lstrip,
               "rstrip": rstrip, "normalized": normalized, "special": token.special})
    };
    tokenizer.special_tokens().iter().map(written).collect()
}

fn put<T: Serialize + ?Sized>(file: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    serde_json::to_writer(file, value).map_err(written)
}

fn written(error: serde_json::Error) -> Error {
    Error::format(format!("tokenizer.json cannot be written: {error}"))
}
