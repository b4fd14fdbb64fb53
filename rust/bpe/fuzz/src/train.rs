//! Training ends with a tokenizer or a named error, and what it learned gives back every text.
#![no_main]

#[path = "common.rs"]
mod common;

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use wordkiln_bpe::{Allowed, Cancel, Corpus, Pattern, Ties, Tokenizer, TrainOptions};

static BASE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let text = "the cat sat on the mat, the other cat did not. 中文分词";
    Arc::new(common::trained(common::options(Pattern::Cl100k, 280), text).unwrap())
});

fuzz_target!(|data: &[u8]| {
    let [pattern, size, frequency, memory, more, rest @ ..] = data else { return };
    let base = (more & 1 != 0).then(|| Arc::clone(&BASE));
    let texts: Vec<&[u8]> = rest.split(|&byte| byte == 0).collect();
    let options = TrainOptions {
        min_frequency: u64::from(*frequency % 4),
        max_memory: (*memory > 128).then(|| 1 << (memory % 32)),
        ties: if more & 2 == 0 { Ties::Alphabet } else { Ties::Bytes },
        initial_alphabet: if more & 4 == 0 { Vec::new() } else { String::from_utf8_lossy(texts[0]).chars().collect() },
        ..common::options(
            base.as_ref().map_or_else(
                || Pattern::ALL[usize::from(*pattern) % Pattern::ALL.len()].clone(),
                |base| base.pattern().clone(),
            ),
            257 + usize::from(*size),
        )
    };
    let options = TrainOptions { base, ..options };
    // Weights near the limit of the counts: they must stop there, not wrap.
    let weight = |number: usize| if more & 8 == 0 { 1 + number as u64 % 3 } else { u64::MAX >> (number % 3) };
    let corpus: Vec<Corpus<'_>> =
        texts.iter().enumerate().map(|(number, &text)| Corpus { text, weight: weight(number) }).collect();
    let Ok(tokenizer) = common::trained_on(options, &corpus) else { return };
    for text in texts {
        let none = Allowed::Some(Vec::new());
        let ids: Vec<u32> = tokenizer.encode(text, &none, &none, &Cancel::new()).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
});
