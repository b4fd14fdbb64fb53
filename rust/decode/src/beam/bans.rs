//! The tokens that a text may not continue with because of what stands in it.

use super::params::BeamParams;

/// What a search bans, in the form in which it is looked up.
#[derive(Clone, Debug, Default)]
pub struct Bans {
    ngram: usize,
    min_new_tokens: usize,
    end_ids: Vec<u32>,
    /// Bad words of two tokens or more, by the token before their last.
    words: Vec<Vec<u32>>,
    longest_word: usize,
    /// Without the bad words of one token; empty where there is none.
    mask: Vec<u32>,
}

impl Bans {
    /// The bans of `params`, which have been checked.
    pub fn new(params: &BeamParams, vocab_size: usize) -> Self {
        let (single, mut words): (Vec<_>, Vec<_>) = params.bad_words.iter().cloned().partition(|word| word.len() == 1);
        words.sort_by_key(|word| word[word.len() - 2]);
        let mut mask = Vec::new();
        if !single.is_empty() {
            mask.resize(vocab_size.div_ceil(32), u32::MAX);
            for id in single.into_iter().flatten() {
                mask[id as usize / 32] &= !(1 << (id % 32));
            }
        }
        Self {
            ngram: params.no_repeat_ngram_size,
            min_new_tokens: params.min_new_tokens,
            end_ids: params.end_ids.clone(),
            longest_word: words.iter().map(Vec::len).max().unwrap_or(0),
            words,
            mask,
        }
    }

    /// The tokens that are allowed in all places.
    pub fn mask(&self) -> Option<&[u32]> {
        (!self.mask.is_empty()).then_some(&self.mask)
    }

    /// How many of the last tokens of prompt and text [`collect`](Self::collect) has to see.
    pub fn context(&self) -> usize {
        if self.ngram > 0 { usize::MAX } else { self.longest_word.saturating_sub(1) }
    }

    /// Sets `banned` to the tokens that may not come after `text` (prompt and text), of which `written` are new.
    pub fn collect(&self, text: &[u32], written: usize, banned: &mut Vec<u32>) {
        banned.clear();
        if written < self.min_new_tokens {
            banned.extend_from_slice(&self.end_ids);
        }
        if self.ngram > 0 && self.ngram <= text.len() {
            let (start, tail) = (self.ngram - 1, &text[text.len() - (self.ngram - 1)..]);
            let again = text.windows(self.ngram).filter(|run| run[..start] == *tail);
            banned.extend(again.map(|run| run[start]));
        }
        if let Some(&last) = text.last() {
            let first = self.words.partition_point(|word| word[word.len() - 2] < last);
            let words = self.words[first..].iter().take_while(|word| word[word.len() - 2] == last);
            let complete = words.filter(|word| text.ends_with(&word[..word.len() - 1]));
            banned.extend(complete.map(|word| word[word.len() - 1]));
        }
        banned.sort_unstable();
        banned.dedup();
    }
}
