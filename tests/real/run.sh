#!/usr/bin/env bash
# Backs real inputs up, restores and compares them with all metadata, and prints time, memory and size;
# next to restic and bupstash, where these are installed, on the same input in the same sitting.
#
#   tests/real/run.sh PROGRAM tree DIRECTORY          one tree
#   tests/real/run.sh PROGRAM trees FIRST SECOND      the second replaces the first at the same path
#   tests/real/run.sh PROGRAM stream FIRST SECOND     two dumps of one database, say
#   tests/real/run.sh PROGRAM small                   200,000 files of 2 KiB, made here
#   tests/real/run.sh PROGRAM sparse                  a file of 100 GiB with 80 MiB of data, made here
#
# WORK names the scratch directory (default: a new one below /dev/shm); it takes the input once more,
# each repository and one restored copy. PEERS=off leaves the others out.
set -euo pipefail

program=$(readlink -f "${1:?"see the head of this script"}")
what=${2:?"tree, trees, stream, small or sparse"}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${WORK:-/dev/shm}/keepstone-real.XXXXXX")
trap 'rm -rf "$work"' EXIT
source=$work/source

export KEEPSTONE_CONFIG=$work/keepstone.toml KEEPSTONE_CACHE_DIR=$work/cache KEEPSTONE_IDENTITY=$work/identity
export RESTIC_PASSWORD=only-for-this RESTIC_CACHE_DIR=$work/restic-cache
export BUPSTASH_KEY=$work/bupstash.key BUPSTASH_REPOSITORY=$work/bupstash BUPSTASH_QUERY_CACHE=$work/query-cache
export BUPSTASH_SEND_LOG=$work/send-log

# measured LABEL COMMAND...: wall seconds, processor seconds, peak memory.
measured() {
    local label=$1
    shift
    /usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/out" 2>&1 || { cat "$work/out"; echo "$label FAILED"; exit 1; }
    awk -v label="$label" '{ printf "  %-28s %7.2f s wall %7.2f s cpu %6.0f MiB peak\n", label, $1, $2 + $3, $4 / 1024 }' "$work/time"
}

size() { printf '  %-28s %7d MiB\n' "$1" "$(du -sm --apparent-size "$2" | cut -f1)"; }

same() { python3 "$here/compare_trees.py" "$1" "$2" | sed 's/^/  /'; }

age-keygen -o "$KEEPSTONE_IDENTITY" 2>/dev/null || { echo "age-keygen is needed (Debian: age)"; exit 2; }
"$program" --quiet --region one="$work/one" init --recipient "$(age-keygen -y "$KEEPSTONE_IDENTITY")" >/dev/null
restic=; bupstash=
if [ "${PEERS:-on}" != off ]; then
    ! command -v restic >/dev/null || { restic=yes; restic init -q -r "$work/restic"; }
    ! command -v bupstash >/dev/null || { bupstash=yes; bupstash new-key -o "$BUPSTASH_KEY"; bupstash init; }
fi

# one_backup STEP: of $source, or of the stream in $source.
one_backup() {
    if [ -d "$source" ]; then
        measured "keepstone $1" "$program" --no-progress backup "$source"
        [ -z "$restic" ] || measured "restic $1" restic -q -r "$work/restic" backup "$source"
        [ -z "$bupstash" ] || measured "bupstash $1" bupstash put -q name=x "$source"
    else
        measured "keepstone $1" sh -c 'exec "$1" --no-progress backup --stdin --as stream <"$2"' sh "$program" "$source"
        [ -z "$restic" ] || measured "restic $1" sh -c 'exec restic -q -r "$1" backup --stdin <"$2"' sh "$work/restic" "$source"
        [ -z "$bupstash" ] || measured "bupstash $1" sh -c 'exec bupstash put -q name=x - <"$1"' sh "$source"
    fi
    size "keepstone repository" "$work/one"
    [ -z "$restic" ] || size "restic repository" "$work/restic"
    [ -z "$bupstash" ] || size "bupstash repository" "$work/bupstash"
}

one_restore() {
    measured "keepstone restore" "$program" --no-progress restore latest --to "$work/restored"
    if [ -d "$source" ]; then same "$source" "$work/restored"; else cmp "$source" "$work/restored/stream" && echo "  identical"; fi
    rm -rf "$work/restored"
    if [ -n "$restic" ]; then
        measured "restic restore" restic -q -r "$work/restic" restore latest --target "$work/restored"
        rm -rf "$work/restored"
    fi
}

place() { rm -rf "$source"; cp -a "$1" "$source"; }

case $what in
tree) source=$(readlink -f "${3:?"a directory"}"); one_backup first ;;
trees | stream)
    place "${3:?"the first"}"; one_backup first
    one_backup again
    place "${4:?"the second"}"; one_backup next ;;
small)
    python3 - "$source" <<'P'
import os, sys
for directory in range(200):
    os.makedirs(f"{sys.argv[1]}/{directory}")
    for number in range(1000):
        with open(f"{sys.argv[1]}/{directory}/{number}", "wb") as file:
            file.write((f"file {directory} {number} " * 200)[:1024].encode() + os.urandom(1024))
P
    one_backup first
    one_backup again ;;
sparse)
    mkdir "$source"
    truncate -s 100G "$source/disk"
    for at in 1000 5000 50000 99000; do
        dd if=/dev/urandom of="$source/disk" bs=1M seek=$at count=20 conv=notrunc status=none
    done
    restic=; bupstash=
    one_backup first ;;
*) echo "unknown: $what"; exit 2 ;;
esac
one_restore
measured "keepstone check, all bytes" "$program" --no-progress check --read-data
[ -z "$restic" ] || measured "restic check, all bytes" restic -q -r "$work/restic" check --read-data
