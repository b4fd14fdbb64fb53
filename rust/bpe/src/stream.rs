//! Bytes to text, piece by piece.

use crate::{Error, Tokenizer};

/// The longest start of `bytes` that can be told apart now, made readable: what is not UTF-8 becomes U+FFFD, but the
/// three-byte form of a lone surrogate stays as it is. With `finish` nothing is held back; without it, bytes that may
/// be the start of a character are. Also gives the number of bytes used.
pub fn lossy_utf8(bytes: &[u8], finish: bool) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let error = match std::str::from_utf8(&bytes[at..]) {
            Ok(rest) => {
                out.extend_from_slice(rest.as_bytes());
                return (out, bytes.len());
            }
            Err(error) => error,
        };
        let broken = at + error.valid_up_to();
        out.extend_from_slice(&bytes[at..broken]);
        at = broken;
        match &bytes[broken..] {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => {
                out.extend_from_slice(&bytes[broken..broken + 3]);
                at += 3;
            }
            [0xed] | [0xed, 0xa0..=0xbf] if !finish => break,
            _ => match error.error_len() {
                None if !finish => break,
                length => {
                    out.extend_from_slice("\u{fffd}".as_bytes());
                    at += length.unwrap_or(bytes.len() - broken);
                }
            },
        }
    }
    (out, at)
}

/// Turns ids into text as they come, and never gives a part of a character.
#[derive(Debug, Default)]
pub struct DecodeStream {
    pending: Vec<u8>,
}

impl DecodeStream {
    /// The text that is whole after this id, as bytes of [`lossy_utf8`]'s kind.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<Vec<u8>, Error> {
        self.pending.extend_from_slice(tokenizer.token(id)?);
        let (text, used) = lossy_utf8(&self.pending, false);
        self.pending.drain(..used);
        Ok(text)
    }

    /// What was held back, made readable; the stream is as new afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        lossy_utf8(&std::mem::take(&mut self.pending), true).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn surrogates_stay_and_broken_bytes_are_replaced() {
        assert_eq!(lossy_utf8(b"a\xed\xa0\x80b", true).0, b"a\xed\xa0\x80b");
        assert_eq!(lossy_utf8(b"\xff\xe4\xb8", true).0, "\u{fffd}\u{fffd}".as_bytes());
        assert_eq!(lossy_utf8(b"ab\xe4\xb8", false), (b"ab".to_vec(), 2));
        assert_eq!(lossy_utf8(b"ab\xed\xa0", false), (b"ab".to_vec(), 2));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(parts in prop::collection::vec(prop::collection::vec(
            prop::sample::select(vec![b'a', 0xe4, 0xb8, 0xad, 0xed, 0xa0, 0x80, 0xf0, 0x9f, 0x98, 0xff]), 0..4), 0..12)) {
            let mut pending = Vec::new();
            let mut streamed = Vec::new();
            for part in &parts {
                pending.extend_from_slice(part);
                let (text, used) = lossy_utf8(&pending, false);
                streamed.extend_from_slice(&text);
                pending.drain(..used);
            }
            streamed.extend_from_slice(&lossy_utf8(&pending, true).0);
            prop_assert_eq!(streamed, lossy_utf8(&parts.concat(), true).0);
        }

        #[test]
        fn valid_text_is_unchanged(text in any::<String>()) {
            prop_assert_eq!(lossy_utf8(text.as_bytes(), true).0, text.as_bytes());
        }
    }
}
