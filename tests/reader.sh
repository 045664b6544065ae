#!/bin/sh
# Prints the Python that runs the second reader, with what it needs installed beside it. The first run
# makes the environment and needs the network for it.
set -eu

reader=$(cd "$(dirname "$0")/../format-spec/reader" && pwd)
wanted=$(sha256sum "$reader/requirements.txt" | cut -c1-16)
environment=${XDG_CACHE_HOME:-$HOME/.cache}/keepstone/reader-$wanted

. "$(dirname "$0")/make_once.sh"
make_once "$environment" make_python "$environment" -r "$reader/requirements.txt" >&2
echo "$environment/bin/python"
