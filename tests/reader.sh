#!/bin/sh
# Prints the Python that runs the second reader, with what it needs installed beside it. The first run
# makes the environment and needs the network for it.
set -eu

reader=$(cd "$(dirname "$0")/../format-spec/reader" && pwd)
wanted=$(sha256sum "$reader/requirements.txt" | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/keepstone
environment=$cache/reader-$wanted
if [ ! -f "$environment/complete" ]; then
    mkdir -p "$cache"
    # Tests start side by side: one makes it, the others wait. The mark tells a whole one.
    exec 9>"$cache/reader.lock"
    flock 9
    if [ ! -f "$environment/complete" ]; then
        rm -rf "$environment"
        python3 -m venv "$environment" >&2
        "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$reader/requirements.txt" >&2
        touch "$environment/complete"
    fi
    exec 9>&-
fi
echo "$environment/bin/python"
