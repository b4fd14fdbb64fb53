//! Text to ids to text: byte-level BPE. Pure Rust, knows no Python.
