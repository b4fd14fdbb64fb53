//! Logits to ids: random numbers, samplers. Pure Rust, knows no Python.
