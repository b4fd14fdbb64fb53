//! Patterns as tokenizer.json writes them.

use serde_json::{Value, json};

use crate::{Error, Pattern};

/// Other spellings of our patterns' regexes, as found in published files.
const SPELLINGS: [(&str, Pattern); 4] = [
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Llama3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        Pattern::Llama3,
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s",
        ),
        Pattern::O200k,
    ),
];

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// The `pre_tokenizer` that cuts as the pattern does.
pub fn write(pattern: Pattern) -> Value {
    let steps = match (pattern, pattern.regex()) {
        (Pattern::Gpt2, _) => return byte_level(true),
        (Pattern::None, _) => return byte_level(false),
        // After ByteLevel each character is a byte.
        (_, None) => [byte_level(false), split(r"(?s:.)")],
        (_, Some(regex)) => [split(regex), byte_level(false)],
    };
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The pattern that cuts as this `pre_tokenizer` does.
pub fn read(value: &Value) -> Result<Pattern, Error> {
    let unknown = || {
        let mut shown = value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(200) {
            shown.truncate(end);
        }
        Error::format(format!("pre_tokenizer: not one that this tokenizer knows: {shown}"))
    };
    if let Some(use_regex) = read_byte_level(value)? {
        return Ok(if use_regex { Pattern::Gpt2 } else { Pattern::None });
    }
    let steps = value["pretokenizers"].as_array().filter(|_| value["type"] == "Sequence").ok_or_else(unknown)?;
    match steps.as_slice() {
        [step] => read(step),
        [first, second] if read_byte_level(second)? == Some(false) => {
            let regex = read_split(first).ok_or_else(unknown)?;
            Pattern::ALL
                .into_iter()
                .filter_map(|pattern| Some((pattern.regex()?, pattern)))
                .chain(SPELLINGS)
                .find_map(|(spelling, pattern)| (spelling == regex).then_some(pattern))
                .ok_or_else(unknown)
        }
        [first, second] if read_byte_level(first)? == Some(false) && read_split(second) == Some(r"(?s:.)") => {
            Ok(Pattern::Bytes)
        }
        _ => Err(unknown()),
    }
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

fn read_split(value: &Value) -> Option<&str> {
    let plain = value["type"] == "Split" && value["behavior"] == "Isolated" && value["invert"] == false;
    value["pattern"]["Regex"].as_str().filter(|_| plain)
}
