//! Characters of UTF-8 text and the classes that the pre-tokenizers ask about.

/// `\p{L}`
pub const LETTER: u8 = 1;
/// `\p{N}`
pub const NUMBER: u8 = 2;
/// `\s`
pub const SPACE: u8 = 4;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: what may stand in the upper-case part of a word.
pub const UPPER: u8 = 8;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: what may stand in its lower-case part.
pub const LOWER: u8 = 16;
/// `[\r\n]`
pub const NEWLINE: u8 = 32;

include!(concat!(env!("OUT_DIR"), "/classes.rs"));

/// The class bits of a code point; 0 for one that does not exist.
#[inline]
pub fn class(code: u32) -> u8 {
    match INDEX.get((code >> 8) as usize) {
        Some(&block) => BLOCKS[block as usize][(code & 0xff) as usize],
        None => 0,
    }
}

/// Class bits and length in bytes of the character at `at < text.len()`.
///
/// The three-byte form of a lone surrogate is one character, and so is each byte that is not part of well-formed
/// UTF-8; both have no class, so a regex would count them as punctuation.
#[inline(always)]
pub fn char_at(text: &[u8], at: usize) -> (u8, usize) {
    let first = text[at];
    if first < 0x80 {
        return (BLOCKS[0][first as usize], 1);
    }
    if let Some(&window) = text[at..].first_chunk() {
        let word = u32::from_le_bytes(window);
        if word & 0xc0e0 == 0x80c0 && first >= 0xc2 {
            return (class((word & 0x1f) << 6 | word >> 8 & 0x3f), 2);
        }
        let code = (word & 0x0f) << 12 | (word >> 8 & 0x3f) << 6 | word >> 16 & 0x3f;
        if word & 0xc0_c0f0 == 0x80_80e0 && code >= 0x800 {
            return (class(code), 3);
        }
    }
    wide_char(&text[at..])
}

fn wide_char(bytes: &[u8]) -> (u8, usize) {
    let code = |length: usize, lead_bits: u32| {
        let mut code = u32::from(bytes[0]) & lead_bits;
        for &byte in bytes.get(1..length)? {
            if byte & 0xc0 != 0x80 {
                return None;
            }
            code = code << 6 | u32::from(byte & 0x3f);
        }
        Some((code, length))
    };
    let (decoded, smallest) = match bytes[0] {
        0xc2..=0xdf => (code(2, 0x1f), 0x80),
        0xe0..=0xef => (code(3, 0x0f), 0x800),
        0xf0..=0xf4 => (code(4, 0x07), 0x1_0000),
        _ => (None, 0),
    };
    match decoded {
        Some((code, length)) if (smallest..=0x10_ffff).contains(&code) => (class(code), length),
        _ => (0, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn room_behind_a_character_changes_nothing(bytes in proptest::collection::vec(0x70u8..=0xff, 1..4)) {
            let padded = [&bytes[..], b"   "].concat();
            proptest::prop_assert_eq!(char_at(&padded, 0), wide_or_ascii(&bytes));
        }
    }

    fn wide_or_ascii(bytes: &[u8]) -> (u8, usize) {
        if bytes[0] < 0x80 { (class(bytes[0].into()), 1) } else { wide_char(bytes) }
    }

    #[test]
    fn well_formed_characters_have_their_class_and_length() {
        for (text, expected) in [
            ("a", LETTER | LOWER),
            ("A", LETTER | UPPER),
            ("中", LETTER | UPPER | LOWER),
            ("7", NUMBER),
            ("½", NUMBER),
            ("\u{3000}", SPACE),
            ("\n", SPACE | NEWLINE),
            ("\u{301}", UPPER | LOWER),
            ("😀", 0),
        ] {
            assert_eq!(char_at(text.as_bytes(), 0), (expected, text.len()), "{text:?}");
        }
    }

    #[test]
    fn surrogates_are_one_character_and_broken_bytes_one_each() {
        assert_eq!(char_at(b"\xed\xa0\x80", 0), (0, 3));
        for broken in [&b"\x80"[..], b"\xc0\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\xff"] {
            assert_eq!(char_at(broken, 0), (0, 1), "{broken:x?}");
        }
    }
}
