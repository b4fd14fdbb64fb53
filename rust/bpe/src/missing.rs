//! Vocabularies that do not hold every byte, as Hugging Face's trainer makes them unless told: SmolLM2's has 235.
//! Such a byte stands for nothing: it counts where text is cut into pre-tokens, and is then left out.

use crate::longest::Trail;
use crate::merges::Scratch;
use crate::pretokenize::each_piece;
use crate::tokenizer::Tokenizer;
use crate::vocabulary::Vocabulary;
use crate::{Cancel, Error};

/// The bytes that no token is made of.
#[derive(Debug)]
pub struct Missing([bool; 256]);

impl Missing {
    /// None if every byte has a token; an error if a longer token holds one that has none, for then no text gives it.
    pub fn new(vocabulary: &Vocabulary, byte_ids: &[u32; 256]) -> Result<Option<Self>, Error> {
        let missing = byte_ids.map(|id| id == u32::MAX);
        if missing.iter().all(|&missing| !missing) {
            return Ok(None);
        }
        for (id, token) in vocabulary.iter() {
            if let Some(byte) = token.iter().find(|&&byte| missing[usize::from(byte)]) {
                return Err(Error::format(format!("byte 0x{byte:02x} has no token, but id {id} is made of it")));
            }
        }
        if vocabulary.iter().next().is_none() {
            return Err(Error::format("the vocabulary has no ordinary token"));
        }
        Ok(Some(Self(missing)))
    }

    /// The lowest of them.
    pub fn first(&self) -> u8 {
        (0..=255).find(|&byte| self.is(byte)).unwrap_or(0)
    }

    pub fn is(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    pub fn stand_in(&self, text: &[u8]) -> bool {
        text.iter().any(|&byte| self.is(byte))
    }
}

impl Tokenizer {
    /// Calls `each` with the ids of every pre-token of a text that holds missing bytes.
    pub(crate) fn encode_without(
        &self,
        missing: &Missing,
        text: &[u8],
        cancel: &Cancel,
        each: &mut dyn FnMut(&[u32]),
    ) -> Result<(), Error> {
        let (mut scratch, mut trail) = (Scratch::default(), Trail::default());
        let (mut known, mut ids) = (Vec::new(), Vec::new());
        let mut pieces = 0u32;
        each_piece(text, self.pattern(), cancel, &mut |start, end| {
            pieces = pieces.wrapping_add(1);
            if pieces.is_multiple_of(1 << 10) {
                cancel.check()?;
            }
            known.clear();
            known.extend(text[start..end].iter().filter(|&&byte| !missing.is(byte)));
            ids.clear();
            self.encode_piece(&known, (&mut scratch, &mut trail), cancel, &mut ids)?;
            each(&ids);
            Ok(())
        })
    }
}
