//! Patterns as tokenizer.json writes them.

use serde_json::{Value, json};

use crate::pretokenize::spelled;
use crate::{Error, Pattern};

/// After ByteLevel each character is a byte, and none a line break.
const EACH: &str = ".";
/// ASCII punctuation, which `\p{P}` has not all of.
const PUNCTUATION: &str = r"[!-/:-@\[-`{-~\p{P}]";

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// The `pre_tokenizer` that cuts as the pattern does.
pub fn write(pattern: &Pattern) -> Value {
    let steps = match (pattern, pattern.regex()) {
        (Pattern::Gpt2, _) => return byte_level(true),
        (Pattern::None, _) => return byte_level(false),
        (Pattern::Regex(cutter), _) => cutter.regexes().map(split).chain([byte_level(false)]).collect(),
        (_, None) => vec![byte_level(false), split(EACH)],
        (_, Some(regex)) => vec![split(regex), byte_level(false)],
    };
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// As [`write`], in JSON.
pub fn pre_tokenizer_json(pattern: &Pattern) -> String {
    write(pattern).to_string()
}

/// The pattern that cuts as this `pre_tokenizer` does.
pub fn read(value: &Value) -> Result<Pattern, Error> {
    let mut steps = Vec::new();
    flatten(value, &mut steps)?;
    let mut regexes = Vec::new();
    let mut bytes = false;
    for step in steps {
        if bytes {
            return match read_split(step) {
                Some(Ok(regex)) if regex == EACH && regexes.is_empty() => Ok(Pattern::Bytes),
                _ => Err(unknown(value)),
            };
        }
        match read_byte_level(step)? {
            Some(true) => regexes.push("gpt2".to_owned()),
            Some(false) => {}
            None => {
                regexes.push(read_cut(step).ok_or_else(|| unknown(value))??);
                continue;
            }
        }
        bytes = true;
    }
    if !bytes {
        return Err(unknown(value));
    }
    match regexes.as_slice() {
        [] => Ok(Pattern::None),
        [regex] => match spelled(regex) {
            Some(pattern) => Ok(pattern),
            None => custom(regex),
        },
        several => custom(&several.join("\n")),
    }
}

fn custom(regexes: &str) -> Result<Pattern, Error> {
    Pattern::custom(regexes).map_err(|error| Error::format(format!("pre_tokenizer: {error}")))
}

fn flatten<'v>(value: &'v Value, steps: &mut Vec<&'v Value>) -> Result<(), Error> {
    if value["type"] != "Sequence" {
        steps.push(value);
        return Ok(());
    }
    let parts = value["pretokenizers"].as_array().ok_or_else(|| unknown(value))?;
    parts.iter().try_for_each(|part| flatten(part, steps))
}

fn unknown(value: &Value) -> Error {
    let mut shown = value.to_string();
    if let Some((end, _)) = shown.char_indices().nth(200) {
        shown.truncate(end);
    }
    Error::format(format!("pre_tokenizer: not one that this tokenizer knows: {shown}"))
}

/// `use_regex` of a ByteLevel step.
fn read_byte_level(value: &Value) -> Result<Option<bool>, Error> {
    if value["type"] != "ByteLevel" {
        return Ok(None);
    }
    if value["add_prefix_space"] != Value::Bool(false) {
        return Err(Error::format("pre_tokenizer: add_prefix_space must be false: no other way of it is known"));
    }
    Ok(Some(value["use_regex"].as_bool().unwrap_or(true)))
}

/// The regex whose matches a step sets apart.
fn read_cut(value: &Value) -> Option<Result<String, Error>> {
    match value["type"].as_str()? {
        "Split" => read_split(value),
        "Digits" if value["individual_digits"] == true => Some(Ok(r"\p{N}".into())),
        "Digits" => Some(Ok(r"\p{N}+".into())),
        "Punctuation" if matches!(value["behavior"].as_str(), Some("Isolated") | None) => Some(Ok(PUNCTUATION.into())),
        _ => None,
    }
}

fn read_split(value: &Value) -> Option<Result<String, Error>> {
    // Both what matches and what does not is kept and set apart: `invert` changes nothing.
    if value["type"] != "Split" || value["behavior"] != "Isolated" {
        return None;
    }
    let pattern = &value["pattern"];
    if let Some(regex) = pattern["Regex"].as_str() {
        return Some(Ok(regex.replace('\n', r"\n")));
    }
    let text = pattern["String"].as_str()?;
    if text.is_empty() {
        return Some(Err(Error::format("pre_tokenizer: Split by an empty string")));
    }
    let mut regex = String::new();
    for char in text.chars() {
        match char {
            '\n' => regex.push_str(r"\n"),
            _ if char.is_ascii_punctuation() => regex.extend(['\\', char]),
            _ => regex.push(char),
        }
    }
    Some(Ok(regex))
}
