//! Every text comes back, in one piece, as a batch, as a stream, with its places.
#![no_main]

#[path = "common.rs"]
mod common;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wordkiln_bpe::{Allowed, Cancel, DecodeStream, Encoded, Pattern, Tokenizer, lossy_utf8};

const REGEXES: [&str; 3] = [r"\p{L}+|\p{N}{1,2}|\s+(?!\S)|\s+", "\\p{N}\ngpt2", r"\w+(?=\s)|[^a]"];

static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let regexes = REGEXES.iter().map(|regex| Pattern::from_name(regex).unwrap());
    Pattern::ALL.into_iter().chain(regexes).map(trained).collect()
});

fn trained(pattern: Pattern) -> Tokenizer {
    let vocab_size = if pattern == Pattern::Bytes { 257 } else { 280 };
    let text = "the cat's mat, The other cat did not. 中文分词，没有空格。 12345  \r\n\r\n aaaaaaaaaaaa".repeat(3);
    common::trained(common::options(pattern, vocab_size), &text).unwrap()
}

fuzz_target!(|data: &[u8]| {
    let [kind, repeats, text @ ..] = data else { return };
    let tokenizer = &TOKENIZERS[usize::from(*kind) % TOKENIZERS.len()];
    let text = text.repeat(1 + usize::from(*repeats % 64));
    let (cancel, none) = (Cancel::new(), Allowed::Some(Vec::new()));
    for allowed in [&Allowed::All, &none] {
        let ids: Vec<u32> = tokenizer.encode(&text, allowed, &none, &cancel).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let batch: Encoded<u32> = tokenizer.encode_batch(&[&text, b"x", &text], allowed, &none, &cancel).unwrap();
        assert_eq!(batch.ids[..ids.len()], ids);
        let places = tokenizer.encode_with_offsets(&text, allowed, &none, &cancel).unwrap();
        assert_eq!(places.ids, ids);
        assert_eq!(places.offsets.last().map_or(0, |last| last.1), text.len() as u64);
        let mut stream = DecodeStream::default();
        let mut streamed: Vec<u8> = ids.iter().flat_map(|&id| stream.push(tokenizer, id).unwrap()).collect();
        streamed.extend(stream.finish());
        assert_eq!(streamed, lossy_utf8(&text, true).0);
    }
    if let Some(cut) = tokenizer.last_safe_start(&text) {
        let mut ids: Vec<u32> = tokenizer.encode(&text[..cut], &none, &none, &cancel).unwrap();
        ids.extend(tokenizer.encode::<u32>(&text[cut..], &none, &none, &cancel).unwrap());
        assert_eq!(ids, tokenizer.encode::<u32>(&text, &none, &none, &cancel).unwrap());
    }
});
