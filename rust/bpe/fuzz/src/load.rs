//! Any file is a tokenizer or a named error; a tokenizer that was read writes a file that reads the same.
#![no_main]

#[path = "common.rs"]
mod common;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wordkiln_bpe::{Allowed, Cancel, Pattern, Tokenizer};
use wordkiln_bpe::{from_json, from_tiktoken, to_json, to_tiktoken};

static FILE: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let text = "the cat sat on the mat, the other cat did not. 中文分词";
    let tokenizer = common::trained(common::options(Pattern::Gpt2, 285), text).unwrap();
    (to_json(&tokenizer).unwrap(), to_tiktoken(&tokenizer).unwrap())
});

fn use_it(tokenizer: &Tokenizer) {
    let text = "the cat 中 <|end|> e\u{301}".as_bytes();
    let cancel = Cancel::new();
    let Ok(ids) = tokenizer.encode::<u32>(text, &Allowed::All, &Allowed::All, &cancel) else { return };
    tokenizer.decode(&ids).unwrap();
    let places = tokenizer.encode_with_offsets(text, &Allowed::All, &Allowed::All, &cancel).unwrap();
    assert_eq!(places.ids, ids);
    assert!(places.offsets.iter().all(|&(start, end)| start <= end && end <= text.len() as u64));
    if let Ok(json) = to_json(tokenizer) {
        assert_eq!(from_json(&json).unwrap().fingerprint(), tokenizer.fingerprint());
    }
}

/// The input says what to put where into a valid file.
fn altered(mut file: Vec<u8>, mut edits: &[u8]) -> Vec<u8> {
    while let [high, low, cut, length, rest @ ..] = edits {
        let (new, later) = rest.split_at(rest.len().min(usize::from(*length)));
        let place = (usize::from(*high) << 8 | usize::from(*low)) % (file.len() + 1);
        let end = (place + usize::from(*cut)).min(file.len());
        file.splice(place..end, new.iter().copied());
        edits = later;
    }
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let loaded = match kind % 4 {
        0 => from_json(rest),
        1 => from_json(&altered(FILE.0.clone(), rest)),
        2 => from_tiktoken(&altered(FILE.1.clone(), rest), Pattern::Cl100k, vec![("<|end|>".into(), 400)]),
        _ => String::from_utf8(rest.to_vec())
            .map_err(|_| wordkiln_bpe::Error::Cancelled)
            .and_then(|regex| Pattern::from_name(&regex))
            .and_then(|pattern| from_tiktoken(&FILE.1, pattern, Vec::new())),
    };
    if let Ok(tokenizer) = loaded {
        use_it(&tokenizer);
    }
});
