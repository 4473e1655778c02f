#!/usr/bin/env bash
# Runs all tests of the workspace, then prints their numbers and, prominently, the tests that this machine could not
# run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
# shellcheck source=scripts/machine.sh
. scripts/machine.sh

log=target/test.log
not_run=target/not-run.txt
mkdir -p target
rm -f "$not_run"

start=$SECONDS
cargo test --no-fail-fast 2>&1 | tee "$log"
outcome=${PIPESTATUS[0]}

awk -v seconds=$((SECONDS - start)) '
    /^test result: / {
        programs++
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    }
    END {
        printf "\n==> tests: %d passed, %d failed, %d ignored, in %d test programs, %d min %d s\n",
            passed, failed, ignored, programs, seconds / 60, seconds % 60
    }' "$log"

if [ "$outcome" != 0 ]; then
    say "FAILED:"
    grep -E '^test .* \.\.\. FAILED$|^error: test failed|^error: could not compile' "$log" | sort -u >&2
    # Repeats the output of each failed test, which may be thousands of lines above.
    awk '/^---- .* stdout ----$/ { shown = 60 } /^failures:$/ { shown = 0 } shown > 0 { print; shown-- }' "$log" >&2
fi
if [ -s "$not_run" ]; then
    count=$(wc -l <"$not_run")
    printf '\n!!! %s\n' "$count TESTS COULD NOT RUN ON THIS MACHINE:" >&2
    sort "$not_run" | sed 's/^/    /' >&2
    [ "${CI:-}" != true ] || outcome=1
elif [ "$outcome" = 0 ]; then
    say "every test could run"
fi
exit "$outcome"
