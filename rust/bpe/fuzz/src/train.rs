//! Training ends with a tokenizer or a named error, and what it learned gives back every text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wordkiln_bpe::{Allowed, Cancel, Pattern, TrainOptions, Trainer};

fuzz_target!(|data: &[u8]| {
    let [pattern, size, frequency, memory, rest @ ..] = data else { return };
    let options = TrainOptions {
        vocab_size: 257 + usize::from(*size),
        pattern: Pattern::ALL[usize::from(*pattern) % Pattern::ALL.len()].clone(),
        special_tokens: vec!["<|end|>".into()],
        min_frequency: u64::from(*frequency % 4),
        max_memory: (*memory > 128).then(|| 1 << (memory % 32)),
    };
    let (cancel, progress) = (Cancel::new(), Default::default());
    let texts: Vec<&[u8]> = rest.split(|&byte| byte == 0).collect();
    let Ok(mut trainer) = Trainer::new(options) else { return };
    if trainer.feed(&texts, &cancel, &progress).is_err() {
        return;
    }
    let Ok(tokenizer) = trainer.finish(&cancel, &progress) else { return };
    for text in texts {
        let ids = tokenizer.encode(text, &Allowed::Some(Vec::new()), &Allowed::Some(Vec::new()), &cancel).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
});
