#!/usr/bin/env bash
# Runs the fuzz targets one after another, each for FUZZ_SECONDS (60). FUZZ_TARGETS selects some of them.
# FUZZ_SANITIZER, such as address, needs a nightly toolchain and halves the speed. With the argument `keep`, the script
# fuzzes nothing: it adds to the corpora the inputs of earlier runs that reach new code.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/machine.sh
. scripts/machine.sh
# shellcheck source=scripts/install-tool.sh
. scripts/install-tool.sh

install_tool cargo-fuzz 0.13.2
# libFuzzer is written in C++.
have c++ || install_packages g++

sanitizer=${FUZZ_SANITIZER:-none}
if [ "$sanitizer" != none ]; then
    export RUSTUP_TOOLCHAIN=nightly
    if ! rustup toolchain list | grep -q '^nightly'; then
        say "installing the nightly Rust toolchain, which sanitizers need"
        rustup toolchain install nightly --profile minimal
    fi
fi

read -r -a targets <<<"${FUZZ_TARGETS:-$(cd fuzz/fuzz_targets && echo *.rs | sed 's/\.rs//g')}"
say "building the fuzz targets: the first time it takes minutes"
# Separate from the product's build, because all crates are built with other flags.
built=target/fuzz
PATH=$PWD/.cache/tools/bin:$PATH cargo fuzz build --sanitizer "$sanitizer" --target-dir "$built"
programs=$built/$(rustc -vV | sed -n 's/^host: //p')/release

# Each run starts with the corpus and the inputs found by earlier runs, and writes new inputs beside the build.
for target in "${targets[@]}"; do
    kept=fuzz/corpus/$target
    found=$built/found/$target
    failures=$built/failures/$target
    mkdir -p "$found" "$failures"
    if [ "${1:-}" = keep ]; then
        # Of the inputs that reach the same code, only the smallest is kept. Hit counts are ignored.
        "$programs/$target" -set_cover_merge=1 -use_counters=0 -max_len=1024 "$kept" "$found" >"$built/merge.log" 2>&1 ||
            fail "$target: the corpora could not be merged" "$(tail -n 5 "$built/merge.log")"
        say "$target: $(find "$kept" -type f | wc -l) files, $(du -sb "$kept" | cut -f1) bytes"
        continue
    fi
    say "$target: ${FUZZ_SECONDS:-60} s"
    nice "$programs/$target" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -max_len=1024 -print_final_stats=1 \
        -dict="fuzz/dictionaries/$target.dict" -artifact_prefix="$failures/" "$found" "$kept" 2>&1 |
        grep --line-buffered -v -E '^#[0-9]+\s+(NEW|REDUCE|RELOAD)|^Dictionary|NEW_FUNC' ||
        fail "$target: something does not hold; see above" \
            "the input is in $failures; to replay it: $programs/$target FILE" \
            "once it is fixed, copy it to $kept under a name that tells what it was"
done
