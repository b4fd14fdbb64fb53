//! Windows against the scanners.

use proptest::prelude::*;

use super::*;

fn by_windows(pattern: &Pattern, isa: Isa, text: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut ends = [0; ENDS];
    let mut at = 0;
    while at < text.len() {
        let count = pattern.piece_ends_with(isa, text, at, &mut ends);
        found.extend_from_slice(&ends[..count]);
        at = ends[count - 1];
    }
    found
}

fn by_scanner(pattern: &Pattern, text: &[u8]) -> Vec<usize> {
    let mut at = 0;
    pretokenize(text, pattern)
        .unwrap()
        .into_iter()
        .map(|piece| {
            at += piece.len();
            at
        })
        .collect()
}

fn check(text: &[u8]) -> Result<(), TestCaseError> {
    for pattern in Pattern::ALL {
        let expected = by_scanner(&pattern, text);
        for isa in Isa::available() {
            let found = by_windows(&pattern, isa, text);
            prop_assert_eq!(found, &expected[..], "{:?} {:?} {:?}", pattern, isa, String::from_utf8_lossy(text));
        }
    }
    Ok(())
}

/// Long enough for several windows; units repeat so that runs end at every place of one.
fn long_text() -> impl Strategy<Value = Vec<u8>> {
    const UNITS: &[&str] = &[
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{85}",
        "\u{a0}",
        "\u{3000}",
        "a",
        "bc",
        "word",
        " word",
        "X",
        "S",
        "T",
        "HTMLx",
        "'",
        "'s",
        "'S",
        "'ſ",
        "'re",
        "'LL",
        "'l",
        "'d",
        "é",
        "É",
        "ß",
        "ǅ",
        "ʰ",
        "中",
        "文字",
        "，",
        "。",
        "ไ",
        "п",
        "При",
        "\u{301}",
        "\u{200d}",
        "❤\u{fe0f}",
        "😀",
        "1",
        "23",
        "4567",
        "½",
        "٣",
        "Ⅷ",
        "𐒠",
        "/",
        "//",
        "!",
        "...",
        "\0",
        "𐐀",
        "𐐨",
    ];
    let unit = (prop::sample::select(UNITS), 1..5usize).prop_map(|(unit, times)| unit.repeat(times));
    prop::collection::vec(unit, 0..80).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn windows_cut_where_the_scanners_do(text in long_text()) {
        check(&text)?;
    }

    #[test]
    fn windows_cut_broken_text_where_the_scanners_do(mut text in long_text(), breaks in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for (place, byte) in breaks {
            if !text.is_empty() {
                let place = place.index(text.len());
                text[place] = byte;
            }
        }
        check(&text)?;
    }

    #[test]
    fn windows_cut_bytes_where_the_scanners_do(text in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&text)?;
    }
}
