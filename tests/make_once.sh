# Sourced by scripts that need something installed: makes a directory once, however many tests ask for it side by side.

# make_once DIRECTORY COMMAND [ARGUMENT]…
#
# Has the command fill the directory, which isn't there then, unless an earlier run did. It gets its final name at once,
# since scripts in an environment hold its path; a mark tells a whole one from one that was interrupted.
make_once() {
    made=$1
    shift
    [ ! -f "$made/complete" ] || return 0
    mkdir -p "$(dirname "$made")"
    # One makes it, the others wait: descriptor 9 holds the lock.
    exec 9>"$made.lock"
    flock 9
    if [ ! -f "$made/complete" ]; then
        rm -rf "$made"
        "$@"
        touch "$made/complete"
    fi
    exec 9>&-
}

# make_python DIRECTORY REQUIREMENT…: a Python environment with what pip is to install there.
make_python() {
    python3 -m venv "$1"
    pip=$1/bin/pip
    shift
    "$pip" install --quiet --disable-pip-version-check "$@"
}
