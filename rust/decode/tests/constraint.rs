//! Constraints as their users see them: what a grammar lets come, ends, clones, errors.

use std::sync::Mutex;

use wordkiln_decode::constraint::{ConstraintError, Grammar, Matcher, Vocabulary, fill_masks};

const END: u32 = 256;
const OTHER_END: u32 = 257;

/// Every byte is a token; two more end a text; one has no bytes; "true" is a token as well.
fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<Option<Vec<u8>>> = (0..=255).map(|byte| Some(vec![byte])).collect();
    tokens.extend([Some(b"<end>".to_vec()), Some(b"<other>".to_vec()), None, Some(b"true".to_vec())]);
    Vocabulary::new(tokens, &[], &[END, OTHER_END]).unwrap()
}

fn regex(text: &str) -> Matcher {
    vocabulary().compile(&Grammar::Regex(text.into())).unwrap()
}

fn allowed(matcher: &mut Matcher) -> Vec<u32> {
    let mut mask = vec![0; 260_usize.div_ceil(32)];
    matcher.fill(&mut mask).unwrap();
    (0..mask.len() as u32 * 32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

fn write(matcher: &mut Matcher, text: &str) -> Result<(), ConstraintError> {
    text.bytes().try_for_each(|byte| matcher.commit(u32::from(byte)))
}

fn accepts(grammar: &Grammar, text: &str) -> bool {
    let mut matcher = vocabulary().compile(grammar).unwrap();
    write(&mut matcher, text).is_ok() && matcher.is_accepting().unwrap()
}

#[test]
fn a_regex_lets_its_texts_come_and_then_the_end() {
    let mut matcher = regex("ab?");
    assert_eq!(allowed(&mut matcher), [u32::from(b'a')]);
    assert_eq!(matcher.commit(END), Err(ConstraintError::Token { id: END }));
    matcher.commit(u32::from(b'a')).unwrap();
    assert_eq!(allowed(&mut matcher), [u32::from(b'b'), END, OTHER_END]);
    assert!(matcher.is_accepting().unwrap() && !matcher.is_finished());
    let mut shorter = matcher.clone();
    matcher.commit(u32::from(b'b')).unwrap();
    assert!(matcher.is_finished());
    assert_eq!(allowed(&mut matcher), [END, OTHER_END]);
    assert_eq!(matcher.commit(u32::from(b'b')), Err(ConstraintError::Token { id: u32::from(b'b') }));
    shorter.commit(OTHER_END).unwrap();
    assert!(shorter.is_finished());
    assert_eq!(allowed(&mut shorter), [END, OTHER_END]);
}

#[test]
fn a_token_that_is_refused_changes_nothing() {
    let mut matcher = regex("ab");
    assert_eq!(write(&mut matcher, "x"), Err(ConstraintError::Token { id: u32::from(b'x') }));
    assert_eq!(matcher.commit(9999), Err(ConstraintError::Token { id: 9999 }));
    assert_eq!(matcher.commit(258), Err(ConstraintError::Token { id: 258 }));
    write(&mut matcher, "ab").unwrap();
    assert!(matcher.is_finished());
}

#[test]
fn each_kind_accepts_its_texts_alone() {
    let schema = r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}"#;
    let table: [(Grammar, &[&str], &[&str]); 4] = [
        (Grammar::Schema(schema.into()), &[r#"{"a": 12}"#, r#"{"a":-3}"#], &[r#"{"a": 1.5}"#, "{}", r#"{"a": 12"#]),
        (Grammar::Regex("[0-9]{2,3}".into()), &["12", "123"], &["1", "1234", "1a"]),
        (
            Grammar::Choices(vec!["yes".into(), "no \"\n\\".into(), "\u{5e8a}\u{524d}".into()]),
            &["yes", "no \"\n\\", "\u{5e8a}\u{524d}"],
            &["ye", "yesno", "no", ""],
        ),
        (Grammar::Lark("start: \"a\" start | \"b\"".into()), &["b", "aab"], &["a", "ba", "bb"]),
    ];
    for (grammar, good, bad) in table {
        good.iter().for_each(|text| assert!(accepts(&grammar, text), "{grammar:?} {text:?}"));
        bad.iter().for_each(|text| assert!(!accepts(&grammar, text), "{grammar:?} {text:?}"));
    }
}

#[test]
fn longer_tokens_are_allowed_where_all_their_bytes_are() {
    let mut matcher = regex("(true|false)x");
    assert_eq!(allowed(&mut matcher), [u32::from(b'f'), u32::from(b't'), 259]);
    matcher.commit(259).unwrap();
    assert_eq!(allowed(&mut matcher), [u32::from(b'x')]);
}

#[test]
fn special_tokens_are_no_text() {
    let tokens = vec![Some(b"a".to_vec()), Some(b"<|x|>".to_vec()), Some(b"<".to_vec()), Some(b"<|end|>".to_vec())];
    let vocabulary = Vocabulary::new(tokens, &[1], &[3]).unwrap();
    let mut mask = [0];
    vocabulary.compile(&Grammar::Regex(".*".into())).unwrap().fill(&mut mask).unwrap();
    assert_eq!(mask, [0b1101]);
    vocabulary.compile(&Grammar::Lark("start: <|x|> \"a\"".into())).unwrap().fill(&mut mask).unwrap();
    assert_eq!(mask, [0b0010]);
}

#[test]
fn rows_are_filled_together() {
    let (a, b) = (Mutex::new(regex("a")), Mutex::new(regex("b")));
    let mut masks = [0; 27];
    fill_masks(&[&a, &b, &a], &mut masks).unwrap();
    assert_eq!((masks[3], masks[9 + 3], masks[18 + 3]), (2, 4, 2));
    assert_eq!(fill_masks(&[&a], &mut masks), Err(ConstraintError::Shape { given: 27, expected: 9 }));
}

#[test]
fn hostile_grammars_are_refused() {
    let deep = |open: &str, close: &str, count: usize| format!("{}{}", open.repeat(count), close.repeat(count));
    let chain: String = (0..5000).map(|rule| format!("r{rule}: r{}\n", rule + 1)).collect();
    let table = [
        Grammar::Schema("{".into()),
        Grammar::Schema("{\"type\": \"nonsense\"}".into()),
        Grammar::Schema("[".repeat(100_000)),
        Grammar::Schema(" ".repeat((1 << 20) + 1)),
        Grammar::Schema("{\"$ref\": \"http://example.com/x\"}".into()),
        Grammar::Schema("{\"$ref\": \"#/$defs/missing\"}".into()),
        Grammar::Regex("(".into()),
        Grammar::Regex("a(?=b)".into()),
        Grammar::Regex(deep("(", ")", 20_000)),
        Grammar::Regex("a".repeat((1 << 16) + 1)),
        Grammar::Choices(vec![]),
        Grammar::Choices(vec!["a".into(), String::new()]),
        Grammar::Lark(String::new()),
        Grammar::Lark("start: missing".into()),
        Grammar::Lark(format!("start: {}", deep("(", ")", 20_000))),
        Grammar::Lark(format!("start: r0\n{chain}")),
    ];
    let vocabulary = vocabulary();
    for grammar in table {
        let error = vocabulary.compile(&grammar).err();
        let shown: String = format!("{grammar:?}").chars().take(60).collect();
        assert!(matches!(&error, Some(ConstraintError::Grammar { name, .. }) if *name == grammar.name()), "{shown}");
        println!("{shown}: {}", error.unwrap());
    }
}

#[test]
fn a_vocabulary_is_checked() {
    assert!(matches!(Vocabulary::new(vec![], &[], &[]), Err(ConstraintError::Vocabulary { .. })));
    let tokens = vec![Some(vec![b'a']); 3];
    assert!(matches!(Vocabulary::new(tokens.clone(), &[3], &[]), Err(ConstraintError::Vocabulary { .. })));
    assert!(matches!(Vocabulary::new(tokens, &[], &[7]), Err(ConstraintError::Vocabulary { .. })));
    let long = vec![Some(vec![b'a']), Some(vec![b'a'; 5000]), Some(vec![255, b'a'])];
    let mut mask = [0];
    Vocabulary::new(long, &[], &[]).unwrap().compile(&Grammar::Regex("a*".into())).unwrap().fill(&mut mask).unwrap();
    assert_eq!(mask, [1]);
}
