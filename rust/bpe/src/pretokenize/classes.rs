//! The classes of 64 bytes at a time, one bit for each byte.

use crate::unicode::char_at;

/// Bytes in a window.
pub const WINDOW: usize = 64;

/// Which bytes of a window are what. All bytes of a character have its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    pub letter: u64,
    pub number: u64,
    pub space: u64,
    /// `\r` and `\n`
    pub newline: u64,
    /// U+0020
    pub blank: u64,
    /// `'`
    pub quote: u64,
    /// `/`
    pub slash: u64,
    /// May stand in the upper-case part of a word alone.
    pub upper: u64,
    /// May stand in both parts of a word (only [`widen`] finds any).
    pub both: u64,
    /// Is in both parts of a word and yet no letter.
    pub mark: u64,
    /// Not ASCII; when [`widen`] is done, the bytes after the first of a character.
    pub wide: u64,
    /// First bytes of three of U+5000 to U+9FFF and U+B000 to U+CFFF: letters without case, all of them. Not sought on
    /// every processor.
    pub plain: u64,
    /// Bytes of a character after its first, sought with `plain`.
    pub later: u64,
}

/// The classes of ASCII bytes by arithmetic on eight at a time, for every processor.
pub fn classify_portable(bytes: &[u8; WINDOW]) -> Masks {
    const BITS: [u8; 128] = {
        let mut bits = [0; 128];
        let mut byte = 0;
        while byte < 128 {
            bits[byte as usize] = match byte {
                b'a'..=b'z' => 1,
                b'A'..=b'Z' => 1 | 64,
                b'0'..=b'9' => 2,
                b'\r' | b'\n' => 4 | 8,
                b' ' => 4 | 16,
                b'\t' | 0x0b | 0x0c => 4,
                b'\'' => 32,
                b'/' => 128,
                _ => 0,
            };
            byte += 1;
        }
        bits
    };
    let mut masks = Masks::default();
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        let mut classes = [0; 8];
        for (class, &byte) in classes.iter_mut().zip(word) {
            *class = BITS[usize::from(byte & 127)] & ((byte >> 7).wrapping_sub(1));
        }
        let classes = u64::from_le_bytes(classes);
        let bit = |number: u32| lowest_bits(classes >> number) << (8 * index);
        masks.letter |= bit(0);
        masks.number |= bit(1);
        masks.space |= bit(2);
        masks.newline |= bit(3);
        masks.blank |= bit(4);
        masks.quote |= bit(5);
        masks.upper |= bit(6);
        masks.slash |= bit(7);
        let high = u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]) >> 7;
        masks.wide |= lowest_bits(high) << (8 * index);
    }
    masks
}

#[cfg(target_arch = "x86_64")]
pub use x86::{bits_avx2, bits_avx512, classify_avx2, classify_avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Classes, Masks, WINDOW};

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn classify_avx512(bytes: &[u8; WINDOW]) -> Masks {
        // SAFETY: 64 bytes are read and the load asks for no alignment.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        let is = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
        let from = |bytes, first: u8, count: i8| {
            let past = _mm512_sub_epi8(bytes, _mm512_set1_epi8(first as i8));
            _mm512_cmplt_epu8_mask(past, _mm512_set1_epi8(count))
        };
        let newline = is(b'\n') | is(b'\r');
        let blank = is(b' ');
        Masks {
            letter: from(_mm512_or_si512(bytes, _mm512_set1_epi8(0x20)), b'a', 26),
            number: from(bytes, b'0', 10),
            space: from(bytes, b'\t', 5) | blank,
            newline,
            blank,
            quote: is(b'\''),
            slash: is(b'/'),
            upper: from(bytes, b'A', 26),
            wide: _mm512_movepi8_mask(bytes),
            plain: from(bytes, 0xe5, 5) | from(bytes, 0xeb, 2),
            later: from(bytes, 0x80, 64),
            ..Masks::default()
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn bits_avx512(classes: &Classes) -> [u64; 6] {
        // SAFETY: 64 bytes are read and the load asks for no alignment.
        let classes = unsafe { _mm512_loadu_si512(classes.as_ptr().cast()) };
        std::array::from_fn(|bit| _mm512_test_epi8_mask(classes, _mm512_set1_epi8(1 << bit)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn bits_avx2(classes: &Classes) -> [u64; 6] {
        let [low, high] = [0, WINDOW / 2].map(|start| {
            // SAFETY: 32 bytes are read from 0 or 32 of 68, and the load asks for no alignment.
            unsafe { _mm256_loadu_si256(classes.as_ptr().add(start).cast()) }
        });
        std::array::from_fn(|bit| {
            let wanted = _mm256_set1_epi8(1 << bit);
            let of = |half| _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(half, wanted), wanted)) as u32;
            u64::from(of(low)) | u64::from(of(high)) << 32
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn classify_avx2(bytes: &[u8; WINDOW]) -> Masks {
        let (low, high) = bytes.split_at(WINDOW / 2);
        let (low, high) = (classify_half(low), classify_half(high));
        let join = |of: fn(&Masks) -> u64| of(&low) | of(&high) << 32;
        Masks {
            letter: join(|half| half.letter),
            number: join(|half| half.number),
            space: join(|half| half.space),
            newline: join(|half| half.newline),
            blank: join(|half| half.blank),
            quote: join(|half| half.quote),
            slash: join(|half| half.slash),
            upper: join(|half| half.upper),
            wide: join(|half| half.wide),
            plain: join(|half| half.plain),
            later: join(|half| half.later),
            ..Masks::default()
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn classify_half(bytes: &[u8]) -> Masks {
        assert!(bytes.len() == WINDOW / 2);
        // SAFETY: 32 bytes are read, as was just seen, and the load asks for no alignment.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let mask = |found| u64::from(_mm256_movemask_epi8(found) as u32);
        let is = |byte: u8| mask(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8)));
        let from = |bytes, first: u8, count: i8| {
            let past = _mm256_sub_epi8(bytes, _mm256_set1_epi8(first as i8));
            mask(_mm256_cmpeq_epi8(_mm256_min_epu8(past, _mm256_set1_epi8(count - 1)), past))
        };
        let blank = is(b' ');
        Masks {
            letter: from(_mm256_or_si256(bytes, _mm256_set1_epi8(0x20)), b'a', 26),
            number: from(bytes, b'0', 10),
            space: from(bytes, b'\t', 5) | blank,
            newline: is(b'\n') | is(b'\r'),
            blank,
            quote: is(b'\''),
            slash: is(b'/'),
            upper: from(bytes, b'A', 26),
            wide: mask(bytes),
            plain: from(bytes, 0xe5, 5) | from(bytes, 0xeb, 2),
            later: from(bytes, 0x80, 64),
            ..Masks::default()
        }
    }
}

/// Class bits byte by byte, with room for the longest character to be written at the last.
pub type Classes = [u8; WINDOW + 4];

/// For each of the six bits of a class, lowest first, the bytes that have it.
pub fn bits_portable(classes: &Classes) -> [u64; 6] {
    let mut masks = [0; 6];
    for (index, word) in classes[..WINDOW].as_chunks().0.iter().enumerate() {
        for (bit, mask) in masks.iter_mut().enumerate() {
            *mask |= lowest_bits(u64::from_le_bytes(*word) >> bit) << (8 * index);
        }
    }
    masks
}

/// The lowest bit of each of eight bytes: the product collects them in its highest byte.
#[inline(always)]
fn lowest_bits(word: u64) -> u64 {
    (word & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Adds the characters beyond ASCII to `masks`, those of `text` from `at` on; returns how many bytes of the window are
/// of characters that end in it. Their classes are collected byte by byte and become masks all at once.
#[inline(always)]
pub fn widen(text: &[u8], at: usize, length: usize, masks: &mut Masks, bits: impl Fn(&Classes) -> [u64; 6]) -> usize {
    let plain = masks.plain & masks.later >> 1 & masks.later >> 2;
    let mut later = plain << 1 | plain << 2;
    let mut classes: Classes = [0; WINDOW + 4];
    let mut rest = masks.wide & low(length) & !(plain | later);
    let mut whole = length;
    let mut met = plain | later;
    masks.letter |= met;
    masks.both |= met;
    if rest != 0 {
        let others = rest;
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let (class, bytes) = char_at(text, at + first);
            if first + bytes > length {
                whole = first;
                break;
            }
            if let Some(places) = classes[first..].first_chunk_mut() {
                *places = [class; 4];
            }
            let span = low(bytes) << first;
            later |= span & span << 1;
            rest &= !span;
        }
        met = others & low(whole);
        let [letter, number, space, upper, lower, newline] = bits(&classes).map(|mask| mask & met);
        masks.letter |= letter;
        masks.number |= number;
        masks.space |= space;
        masks.newline |= newline;
        masks.upper |= upper & !lower;
        masks.both |= upper & lower;
        masks.mark |= upper & lower & !letter;
    }
    masks.wide = later;
    whole
}

/// The lowest `count` bits, of 64 at most.
#[inline]
pub fn low(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unicode::{LETTER, LOWER, NEWLINE, NUMBER, SPACE, UPPER, class};

    /// From the table of Unicode, byte by byte.
    fn definition(bytes: &[u8; WINDOW]) -> Masks {
        let mask = |belongs: &dyn Fn(u8) -> bool| {
            bytes
                .iter()
                .enumerate()
                .filter(|&(_, &byte)| belongs(byte))
                .fold(0, |mask, (index, _)| mask | 1u64 << index)
        };
        let of = |bits: u8| mask(&|byte| byte < 128 && class(u32::from(byte)) & bits != 0);
        Masks {
            letter: of(LETTER),
            number: of(NUMBER),
            space: of(SPACE),
            newline: of(NEWLINE),
            upper: of(UPPER),
            blank: mask(&|byte| byte == b' '),
            quote: mask(&|byte| byte == b'\''),
            slash: mask(&|byte| byte == b'/'),
            wide: mask(&|byte| byte >= 128),
            plain: mask(&|byte| matches!(byte, 0xe5..=0xe9 | 0xeb..=0xec)),
            later: mask(&|byte| matches!(byte, 0x80..=0xbf)),
            ..Masks::default()
        }
    }

    #[test]
    fn plain_characters_are_letters_without_case() {
        for code in (0x5000..=0x9fff).chain(0xb000..=0xcfff) {
            assert_eq!(class(code), LETTER | UPPER | LOWER, "U+{code:04X}");
        }
    }

    #[test]
    fn the_order_of_bits_is_that_of_the_classes() {
        assert_eq!([LETTER, NUMBER, SPACE, UPPER, LOWER, NEWLINE], [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn every_byte_at_every_place_has_its_class() {
        for shift in 0..=255u8 {
            let bytes = std::array::from_fn(|index| (index as u8).wrapping_mul(5).wrapping_add(shift));
            let expected = definition(&bytes);
            assert_eq!(classify_portable(&bytes), Masks { plain: 0, later: 0, ..expected });
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, as was just asked.
                    assert_eq!(unsafe { classify_avx2(&bytes) }, expected);
                }
                if is_x86_feature_detected!("avx512bw") {
                    // SAFETY: the processor has AVX-512BW, as was just asked.
                    assert_eq!(unsafe { classify_avx512(&bytes) }, expected);
                }
            }
        }
    }
}
