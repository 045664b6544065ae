#!/usr/bin/env bash
# Shows what keepstone does, on a copy of a directory: tests/demo.sh PROGRAM [DIRECTORY]. Called by `make demo`.
#
# The directory is copied into a temporary one first and never written to. Everything that is made is removed
# at the end. A step that doesn't hold what it promises ends the demonstration with an error.
set -euo pipefail

program=${1:?"usage: $0 PROGRAM [DIRECTORY]"}
given=${2:-}

work=$(mktemp -d "${TMPDIR:-/tmp}/keepstone-demo.XXXXXX")
cleanup() {
    status=$?
    trap - EXIT
    # Copied directories may deny even their owner to write.
    chmod -R u+rwX "$work" 2>/dev/null || true
    rm -rf "$work"
    [ "$status" -eq 0 ] || printf '\nThe demonstration FAILED (exit code %s).\n' "$status" >&2
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

bold='' green='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' green=$'\033[32m' plain=$'\033[0m'; fi

number=0
step() {
    number=$((number + 1))
    printf '\n%s%2d. %s%s\n' "$bold" "$number" "$1" "$plain"
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@"
}
keepstone() {
    printf '    $ keepstone %s\n' "$*" >&2
    "$program" --no-progress "$@"
}
proved() { printf '    %s✔ %s%s\n' "$green" "$1" "$plain"; }
fail() {
    printf '    ✘ %s\n' "$1" >&2
    exit 1
}

# Everything about a tree that must come back: kind, mode, owner, time to the nanosecond, size, link target,
# content, which names are one file, extended attributes.
describe() (
    cd "$1"
    export LC_ALL=C
    find . ! -type s \( -type d -printf '%p %y %m %U %G %T@\0' -o -printf '%p %y %m %U %G %T@ %s %l\0' \) | sort -z
    find . -type f -print0 | sort -z | xargs -0 -r sha256sum --zero
    find . -type f -links +1 -printf '%i %p\0' | sort -z -k 2 |
        awk 'BEGIN { RS = ORS = "\0" } { i = $1; sub(/^[0-9]+ /, ""); if (!(i in first)) first[i] = $0; print $0 " = " first[i] }'
    if command -v getfattr >/dev/null; then
        find . ! -type s ! -type l -print0 | sort -z | xargs -0 -r getfattr --absolute-names -h -d -m - -e hex 2>/dev/null || true
    fi
)
same() {
    describe "$2" >"$work/found"
    if ! cmp -s "$1" "$work/found"; then
        diff <(tr '\0' '\n' <"$1") <(tr '\0' '\n' <"$work/found") | head -20 >&2 || true
        fail "$3: differences"
    fi
    entries=$(find "$2" -printf x | wc -c)
    proved "$3: all $entries entries are the same, content bit for bit, modes, owners, times and links too"
}

step "A directory to keep" "It is copied to $work; the original is only read."
if [ -n "$given" ]; then
    [ -d "$given" ] || fail "$given is no directory"
    kib=$(du -sk -- "$given" 2>/dev/null | cut -f1)
    if [ "$kib" -gt $((2 << 20)) ] && [ "${DEMO_LARGE:-}" != 1 ]; then
        fail "$given holds $((kib >> 20)) GiB; the demonstration takes about four times as much room below ${TMPDIR:-/tmp}: set DEMO_LARGE=1 if that is all right"
    fi
    room=$(df -Pk "$work" | awk 'NR == 2 { print $4 }')
    [ "$room" -gt $((kib * 4)) ] || fail "there is too little room below ${TMPDIR:-/tmp}: $((kib * 4 >> 10)) MiB are needed; set TMPDIR"
    mkdir "$work/source"
    cp -a -- "$given/." "$work/source/" || echo "    (what can't be read was left out of the copy)"
else
    mkdir -p "$work/source/letters/empty" "$work/source/odd"
    (
        cd "$work/source"
        for n in 1 2 3 4 5; do printf 'Dear reader %s,\nthis is a letter.\n' "$n" >"letters/letter $n.txt"; done
        head -c 8M /dev/urandom >photograph.raw
        cp photograph.raw "copy of the photograph.raw"
        seq 1 300000 >table.csv
        truncate -s 64M odd/sparse
        printf 'end' >>odd/sparse
        ln -s ../letters/nowhere odd/dangling
        ln table.csv odd/hard-link.csv
        mkfifo odd/fifo
        printf x >"odd/"$'new\nline'
        printf y >"odd/"$'not-utf8-\xff'
        chmod 4711 "letters/letter 1.txt"
        touch -d '1969-07-20 20:17:40.123456789 UTC' "letters/letter 2.txt"
        setfattr -n user.note -v remember "letters/letter 3.txt" 2>/dev/null || true
        # Something of a size that shows deduplication and compression, where the system has it.
        if [ -d /usr/share/doc ]; then cp -a /usr/share/doc documentation 2>/dev/null || true; fi
    )
fi
# Sockets are no data; a backup lists them as left out.
find "$work/source" -type s -delete
echo "    $(find "$work/source" -printf x | wc -c) entries, $(du -sh "$work/source" | cut -f1)"
describe "$work/source" >"$work/day-1"

export KEEPSTONE_CONFIG=$work/keepstone.toml KEEPSTONE_CACHE_DIR=$work/cache
unset KEEPSTONE_PASSPHRASE_FILE KEEPSTONE_PASSPHRASE_COMMAND KEEPSTONE_IDENTITY KEEPSTONE_REGIONS
KEEPSTONE_PASSPHRASE=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export KEEPSTONE_PASSPHRASE

step "Make a repository in two regions" \
    "Each region holds all of it. Here they are directories; a bucket in another city is configured the same way." \
    "The passphrase was drawn for this demonstration and exists only in its environment."
keepstone --region "near=$work/near" --region "far=$work/far" init

saved_id() { sed -n 's/^Saved snapshot \([0-9a-f]*\) in .*/\1/p' "$1"; }

step "Day 1: back it up" "It ends well only when both regions have everything, and have committed the snapshot."
keepstone backup "$work/source" | tee "$work/out"
day_1=$(saved_id "$work/out")
[ -n "$day_1" ] || fail "no snapshot was saved"
proved "snapshot ${day_1:0:12} is in both regions"

step "Then something happens to it" "A file is edited, one is deleted, one renamed, one added."
mapfile -d '' -t files < <(find "$work/source" -type f -links 1 -writable -print0 | LC_ALL=C sort -z)
count=${#files[@]}
if [ "$count" -ge 1 ]; then printf 'edited on day 2\n' >>"${files[0]}" && echo "    edited  ${files[0]#"$work/source/"}"; fi
if [ "$count" -ge 2 ]; then mv "${files[1]}" "${files[1]}.renamed" && echo "    renamed ${files[1]#"$work/source/"}"; fi
if [ "$count" -ge 3 ]; then rm "${files[2]}" && echo "    deleted ${files[2]#"$work/source/"}"; fi
printf 'written on day 2\n' >"$work/source/added on day 2.txt"
echo "    added   added on day 2.txt"
describe "$work/source" >"$work/day-2"

step "Day 2: back it up again" "Files that didn't change aren't opened; of the others only new chunks are stored."
keepstone backup "$work/source" | tee "$work/out"
day_2=$(saved_id "$work/out")
[ -n "$day_2" ] && [ "$day_2" != "$day_1" ] || fail "no second snapshot was saved"
keepstone snapshots

step "What changed between the days?"
keepstone diff "$day_1" "$day_2" | tee "$work/out"
grep -q 'added on day 2.txt' "$work/out" || fail "the added file is not in the list"
proved "the changes are listed"

step "Bring day 1 back" "Into an empty directory, by the snapshot's id, read back after it was written."
keepstone restore "$day_1" --to "$work/restored" --verify
same "$work/day-1" "$work/restored" "day 1, restored"
rm -rf "$work/restored"

step "Is everything in order?" "check opens every pack in both regions and compares every chunk with its id."
keepstone check --read-data
proved "each region is whole and readable"

step "The same question, asked without any key" \
    "scrub needs no passphrase: whoever keeps a region can run it, and learns nothing of what is in it."
for region in near far; do
    (unset KEEPSTONE_PASSPHRASE && keepstone scrub "$region")
done
proved "every stored byte is as it was written"

step "One region burns down" \
    "It is taken away, and so is this machine's cache: there is only the other region, the configuration" \
    "and the passphrase. Then the same the other way round."
for lost in near far; do
    mv "$work/$lost" "$work/$lost.gone"
    rm -rf "$work/cache"
    keepstone restore latest --to "$work/restored"
    same "$work/day-2" "$work/restored" "day 2, restored without '$lost'"
    rm -rf "$work/restored"
    mv "$work/$lost.gone" "$work/$lost"
done

step "A disk returns wrong bytes" "One byte of one pack in region 'near' is changed."
pack=$(find "$work/near/packs" -type f -size +2100c | LC_ALL=C sort | awk 'NR == 1')
chmod u+w "$pack"
old=$(od -An -j 2000 -N1 -tu1 "$pack" | tr -d ' ')
printf "\\x$(printf %02x $((old ^ 1)))" | dd of="$pack" bs=1 seek=2000 conv=notrunc status=none
if keepstone scrub near; then fail "the changed byte was not noticed"; fi
proved "scrub finds it, and names the pack"
rm -rf "$work/cache"
keepstone restore "$day_1" --to "$work/restored"
same "$work/day-1" "$work/restored" "day 1, restored past the damage"

printf '\n%sThat was all of it: backed up twice into two regions, changed, restored, compared, checked; and a loss survived.%s\n' "$bold" "$plain"
