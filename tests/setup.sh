#!/bin/sh
# Installs what the build and the tests need besides Rust, and nothing that is there already.
#
#   tests/setup.sh build    a C and C++ compiler, and libclang, with which RocksDB's bindings are made
#   tests/setup.sh test     also Python 3 with venv, for the S3 server and the second reader
set -eu

stage=${1:?"usage: $0 build|test"}

have() { command -v "$1" >/dev/null 2>&1; }

# What bindgen will find: the library, and the compiler's own headers that belong to it.
have_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        [ -e "$LIBCLANG_PATH" ]
        return
    fi
    for library in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*-linux-gnu/libclang*.so* /usr/lib64/libclang*.so*; do
        [ -e "$library" ] || continue
        for header in /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h; do
            [ -e "$header" ] && return
        done
    done
    return 1
}

have_python() { have python3 && python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

if ! have cargo; then
    echo "setup: there is no cargo; install Rust 1.95 or newer first" >&2
    exit 1
fi

packages=
have cc && have gcc || packages="$packages gcc libc6-dev"
have c++ && have g++ || packages="$packages g++"
have_libclang || packages="$packages libclang-dev"
if [ "$stage" = test ]; then
    have_python || packages="$packages python3 python3-venv"
fi
[ -n "$packages" ] || exit 0

packages=${packages# }
if ! have apt-get; then
    echo "setup: these are missing, and this is no Debian where they could be installed: $packages" >&2
    echo "setup: install what corresponds to them; LIBCLANG_PATH may name libclang's directory" >&2
    exit 1
fi
root=
if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
        echo "setup: these are missing, and only root can install them: apt-get install $packages" >&2
        exit 1
    fi
    root=sudo
fi
echo "setup: installing $packages"
# A machine's first list of packages is empty or old.
# shellcheck disable=SC2086 # Words of a list.
if ! $root apt-get update -qq ||
    ! $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; then
    echo "setup: could not install $packages; is the network there? Install them by hand and go on" >&2
    exit 1
fi
have_libclang || {
    echo "setup: libclang-dev is installed, but libclang is not where it is looked for; set LIBCLANG_PATH" >&2
    exit 1
}
