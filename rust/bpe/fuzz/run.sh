#!/usr/bin/env bash
# Runs the fuzz targets (all, or those named in TARGETS), SECONDS_EACH each, with coverage from the stable toolchain:
# what cargo-fuzz does, but that it wants a nightly one.
set -euo pipefail
cd "$(dirname "$0")"
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target named, build scripts are built without these flags.
target=$(rustc -vV | sed -n 's/^host: //p')
cargo build --quiet --release --target "$target"
for name in ${TARGETS:-load train encode}; do
  mkdir -p "corpus/$name"
  "target/$target/release/$name" -max_total_time="${SECONDS_EACH:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=4096 \
    -print_final_stats=1 -artifact_prefix="corpus/$name-" "corpus/$name"
done
