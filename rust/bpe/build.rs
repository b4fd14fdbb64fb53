//! Writes the character classes that the pre-tokenizers test as a two-stage table, from regex-syntax's Unicode data.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use regex_syntax::hir::{Class, HirKind};

/// (regex class, bit of the table); the bits are named in src/unicode.rs.
const CLASSES: [(&str, u8); 5] = [
    (r"\p{L}", 1),
    (r"\p{N}", 2),
    (r"\s", 4),
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", 8),
    (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", 16),
];
const BLOCK: usize = 256;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut classes = vec![0u8; 0x11_0000];
    for (pattern, bit) in CLASSES {
        let hir = regex_syntax::parse(pattern).expect("a class that regex-syntax knows");
        let HirKind::Class(Class::Unicode(class)) = hir.into_kind() else {
            panic!("{pattern} is not a class of characters")
        };
        for range in class.ranges() {
            for code in range.start() as usize..=range.end() as usize {
                classes[code] |= bit;
            }
        }
    }
    for (byte, bit) in [(b'\r', 32), (b'\n', 32)] {
        classes[byte as usize] |= bit;
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    fs::write(out_dir.join("classes.rs"), source(&classes)).expect("OUT_DIR can be written");
}

fn source(classes: &[u8]) -> String {
    let mut blocks: Vec<&[u8]> = Vec::new();
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    let mut index = String::new();
    for block in classes.chunks(BLOCK) {
        let number = *known.entry(block).or_insert_with(|| {
            blocks.push(block);
            blocks.len() - 1
        });
        write!(index, "{number},").expect("writing to a string");
    }
    let stages = classes.len() / BLOCK;
    let count = blocks.len();
    format!("static INDEX: [u16; {stages}] = [{index}];\nstatic BLOCKS: [[u8; {BLOCK}]; {count}] = {blocks:?};\n")
}
