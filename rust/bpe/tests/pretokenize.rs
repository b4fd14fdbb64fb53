//! The scanners against the regexes that define them, run by the engine that tiktoken uses.

use fancy_regex::Regex;
use proptest::prelude::*;
use wordkiln_bpe::{Pattern, pretokenize};

/// tiktoken's own spellings, as of 0.14; each must cut as our definition does.
const TIKTOKEN: [(Pattern, &str); 3] = [
    (Pattern::Gpt2, r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"),
    (
        Pattern::Cl100k,
        concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
    ),
    (
        Pattern::O200k,
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
    ),
];

fn expected(regex: &Regex, text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for found in regex.find_iter(text) {
        let found = found.expect("no limit is met on short text");
        assert_eq!(found.start(), at, "the regex leaves a gap in {text:?}");
        pieces.push(found.as_str().to_owned());
        at = found.end();
    }
    assert_eq!(at, text.len(), "the regex leaves a rest of {text:?}");
    pieces
}

fn scanned(pattern: &Pattern, text: &str) -> Vec<String> {
    pretokenize(text.as_bytes(), pattern)
        .unwrap()
        .into_iter()
        .map(|piece| String::from_utf8(piece.to_vec()).expect("pieces are cut between characters"))
        .collect()
}

fn regexes() -> Vec<(Pattern, Regex)> {
    let definitions = Pattern::ALL.into_iter().filter_map(|pattern| Some((pattern.clone(), pattern.regex()?)));
    definitions.chain(TIKTOKEN).map(|(pattern, regex)| (pattern, Regex::new(regex).expect("a valid regex"))).collect()
}

/// Characters of every class that a pattern tells apart, the ones it names, and neighbours of those.
fn tricky_text() -> impl Strategy<Value = String> {
    const CHARACTERS: &[&str] = &[
        " ",
        "  ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\u{b}",
        "\u{85}",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{1680}",
        "\u{180e}",
        "\u{200b}",
        "a",
        "b",
        "S",
        "T",
        "x",
        "'",
        "'s",
        "'S",
        "'ſ",
        "'re",
        "'Ve",
        "'LL",
        "'l",
        "'d",
        "ſ",
        "\u{212a}",
        "é",
        "É",
        "ǅ",
        "ʰ",
        "ß",
        "中",
        "文",
        "ไ",
        "\u{301}",
        "\u{e33}",
        "\u{20dd}",
        "\u{200d}",
        "😀",
        "1",
        "2345",
        "½",
        "Ⅷ",
        "٣",
        "/",
        "//",
        "!",
        "...",
        "_",
        "-",
        "$",
        "\0",
        "\u{7f}",
        "\u{ad}",
        "\u{feff}",
        "\u{10ffff}",
        "ᛮ",
        "𐐀",
        "𐐨",
    ];
    prop::collection::vec(prop::sample::select(CHARACTERS), 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn scanners_cut_where_the_regexes_do(text in prop_oneof![3 => tricky_text(), 1 => any::<String>()]) {
        thread_local!(static REGEXES: Vec<(Pattern, Regex)> = regexes());
        REGEXES.with(|regexes| {
            for (pattern, regex) in regexes {
                prop_assert_eq!(scanned(pattern, &text), expected(regex, &text), "{:?} {}", pattern, regex.as_str());
            }
            Ok(())
        })?;
    }

    #[test]
    fn pieces_join_to_the_text_whatever_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for pattern in Pattern::ALL {
            let pieces = pretokenize(&bytes, &pattern).unwrap();
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(pieces.concat(), &bytes[..]);
        }
    }

    #[test]
    fn a_text_may_be_cut_at_a_safe_start(text in tricky_text(), at in 0..20usize) {
        for pattern in Pattern::ALL {
            let cut = pattern.safe_start(text.as_bytes(), at.min(text.len()));
            let whole = pretokenize(text.as_bytes(), &pattern).unwrap();
            let mut ends = whole.iter().scan(0, |end, piece| { *end += piece.len(); Some(*end) });
            prop_assert!(cut == 0 || ends.any(|end| end == cut), "{:?} at {}", pattern, cut);
        }
    }
}

#[test]
fn every_character_alone_and_between_letters() {
    let regexes = regexes();
    for character in ('\0'..=char::MAX).step_by(331) {
        let text = format!("{character}A{character}{character}a1{character} {character}");
        for (pattern, regex) in &regexes {
            assert_eq!(scanned(pattern, &text), expected(regex, &text), "{pattern:?} {text:?}");
        }
    }
}
