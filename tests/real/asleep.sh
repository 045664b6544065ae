#!/usr/bin/env bash
# A backup is stopped in its middle, two collections end while it sleeps, and it goes on: it may report
# success only for a snapshot that restores. Takes 10 minutes, as long as `gc --now` waits for a sleeper.
#
#   tests/real/asleep.sh PROGRAM DIRECTORY
set -euo pipefail

program=$(readlink -f "${1:?"see the head of this script"}")
source=$(readlink -f "${2:?"a directory that takes some seconds to back up"}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${WORK:-/dev/shm}/keepstone-asleep.XXXXXX")
trap 'kill -9 "${writer:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
export KEEPSTONE_CONFIG=$work/keepstone.toml KEEPSTONE_CACHE_DIR=$work/cache KEEPSTONE_IDENTITY=$work/identity

age-keygen -o "$KEEPSTONE_IDENTITY" 2>/dev/null
"$program" --quiet --region one="$work/one" init --recipient "$(age-keygen -y "$KEEPSTONE_IDENTITY")" >/dev/null
printf '[retention]\nforget_window = "1 second"\n' >>"$KEEPSTONE_CONFIG"
# What the sleeper will rely on: the same data, in a snapshot that is forgotten and collected meanwhile.
first=$("$program" --json --no-progress backup "$source" --dataset first 2>/dev/null | python3 -c 'import json,sys; print(json.load(sys.stdin)["snapshot"])')
cp -a "$source" "$work/copy"

"$program" --json --no-progress backup "$work/copy" --dataset second >"$work/out" 2>"$work/err" &
writer=$!
for _ in $(seq 500); do
    [ "$(find "$work/one/sessions" -mindepth 1 -maxdepth 1 | wc -l)" -lt 2 ] || break
    sleep 0.01
done
sleep "${AFTER:-0.3}"
kill -STOP "$writer"
echo "the writer sleeps: $(ps -o stat= -p "$writer")"
"$program" --quiet forget "$first" --break-floor --confirm first
for _ in 1 2 3; do
    "$program" gc --now | sed 's/^/    /'
done
kill -CONT "$writer"
code=0
wait "$writer" || code=$?
echo "the writer ended with $code"
if [ "$code" -eq 0 ]; then
    snapshot=$(python3 -c 'import json,sys; print(json.load(sys.stdin)["snapshot"])' <"$work/out")
    "$program" --quiet restore "$snapshot" --to "$work/restored"
    python3 "$here/compare_trees.py" "$work/copy" "$work/restored"
fi
"$program" --quiet check --read-data
echo "whatever was reported restores"
