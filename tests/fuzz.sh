#!/usr/bin/env bash
# Fuzzes every decoder for some seconds each: tests/fuzz.sh SECONDS [TARGET]... Called by `make fuzz`.
#
# cargo-fuzz is installed below the cache directory. No sanitizer is used: the project's own code is safe
# Rust, and what is searched for are panics and broken promises. So a stable toolchain suffices.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_FUZZ=0.13.2

seconds=${1:?"usage: $0 SECONDS [TARGET]..."}
shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/keepstone
tools=$cache/tools-cargo-fuzz-$CARGO_FUZZ
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
    CARGO_TARGET_DIR=$cache/tools-target cargo install --quiet --locked --root "$tools" --version "$CARGO_FUZZ" cargo-fuzz
    rm -rf "$cache/tools-target"
fi
export PATH="$tools/bin:$PATH"
# cargo-fuzz has a directory of its own: its flags would have everything else compiled anew.
export CARGO_TARGET_DIR=${KEEPSTONE_FUZZ_TARGET_DIR:-$cache/fuzz-target}
export KEEPSTONE_FUZZ_CORPUS=$cache/fuzz-corpus

cargo fuzz build --release --sanitizer none --target-dir "$CARGO_TARGET_DIR"
if [ $# -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list)
else
    targets=("$@")
fi
for target in "${targets[@]}"; do
    mkdir -p "$KEEPSTONE_FUZZ_CORPUS/$target"
    echo "fuzz: $target for $seconds s"
    cargo fuzz run --release --sanitizer none --target-dir "$CARGO_TARGET_DIR" \
        "$target" "$KEEPSTONE_FUZZ_CORPUS/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=16384 -print_final_stats=0 -verbosity=0
done
echo "fuzz: ${#targets[@]} targets, nothing found"
