//! What the targets share.

use wordkiln_bpe::{Cancel, Corpus, Error, Pattern, Ties, Tokenizer, TrainOptions, Trainer};

pub fn options(pattern: Pattern, vocab_size: usize) -> TrainOptions {
    TrainOptions {
        vocab_size,
        pattern,
        special_tokens: vec!["<|end|>".into()],
        min_frequency: 1,
        max_memory: None,
        ties: Ties::Alphabet,
        initial_alphabet: Vec::new(),
        base: None,
    }
}

pub fn trained(options: TrainOptions, text: &str) -> Result<Tokenizer, Error> {
    trained_on(options, &[Corpus { text: text.as_bytes(), weight: 1 }])
}

pub fn trained_on(options: TrainOptions, texts: &[Corpus<'_>]) -> Result<Tokenizer, Error> {
    let (cancel, progress) = (Cancel::new(), Default::default());
    let mut trainer = Trainer::new(options)?;
    trainer.feed(texts, &cancel, &progress)?;
    trainer.finish(&cancel, &progress)
}
