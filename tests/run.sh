#!/usr/bin/env bash
# Runs every test once and ends with their sum: 'N passed, N failed, N skipped'. Called by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed_runs=0

# All test programs run, also after one has failed, so that the sum is of all.
${CARGO:-cargo} test --release --locked --no-fail-fast 2>&1 | tee "$log" || failed_runs=1

# 'test result: ok. 11 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.3s'
sums=$(awk '/^test result: / { passed += $4; failed += $6; skipped += $8; runs++ }
    END { print passed + 0, failed + 0, skipped + 0, runs + 0 }' "$log")
read -r passed failed skipped runs <<<"$sums"

# The second reader, written from the specification alone, has tests of its own.
reader=format-spec/reader
if [ -f "$reader/test_reader.py" ]; then
    python=$(tests/reader.sh)
    echo
    echo "     Running the second reader's tests"
    (cd "$reader" && PYTHONDONTWRITEBYTECODE=1 "$python" -m unittest test_reader) 2>&1 | tee "$log" ||
        failed_runs=1
    # 'Ran 40 tests in 3s', then 'OK', 'OK (skipped=2)' or 'FAILED (failures=1, errors=2, skipped=3)'.
    count() { grep -E '^(OK|FAILED)' "$log" | grep -oE "$1=[0-9]+" | cut -d= -f2 || true; }
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$log")
    bad=$(($(count failures || true) + 0 + $(count errors || true) + 0))
    left=$(($(count skipped || true) + 0))
    passed=$((passed + ${ran:-0} - bad - left))
    failed=$((failed + bad))
    skipped=$((skipped + left))
    [ "${ran:-0}" -gt 0 ] || failed_runs=1
fi

status=0
if [ "$failed" -gt 0 ] || [ "$failed_runs" -ne 0 ] || [ "$runs" -eq 0 ] || [ "$passed" -eq 0 ]; then
    # What doesn't compile or dies midway states no failure of its own.
    [ "$failed" -gt 0 ] || failed=1
    status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
