#!/bin/sh
# Installs what the build and the tests need besides Rust, and nothing that is there already.
#
#   tests/setup.sh build    a C and C++ compiler, and libclang, with which RocksDB's bindings are made
#   tests/setup.sh test     also Python 3 with venv, for the S3 server and the second reader, and OpenSSH's server and
#                           client, for regions behind a real sshd; not with KEEPSTONE_TEST_SSHD=off, which skips those;
#                           and Node.js with npm, for Azure's emulator; not with KEEPSTONE_TEST_AZURE=off
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

# Who isn't root seldom has the directories of servers in the path.
have_sshd() {
    for directory in /usr/sbin /usr/local/sbin /sbin; do
        [ -x "$directory/sshd" ] && return
    done
    have sshd
}

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
    if [ "${KEEPSTONE_TEST_SSHD:-}" != off ]; then
        have ssh && have ssh-keygen || packages="$packages openssh-client"
        have_sshd || packages="$packages openssh-server"
    fi
    if [ "${KEEPSTONE_TEST_AZURE:-}" != off ]; then
        have node || packages="$packages nodejs"
        have npm || packages="$packages npm"
    fi
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
# The tests start a server of their own, on a port of their own; the package would start one for everybody, now and at
# each boot. What asks this file before it starts a service is told no.
policy=/usr/sbin/policy-rc.d
case " $packages " in
*" openssh-server "*)
    if [ ! -e "$policy" ]; then
        trap '$root rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
        $root chmod 755 "$policy"
    fi
    ;;
esac
# A machine's first list of packages is empty or old.
# shellcheck disable=SC2086 # Words of a list.
if ! $root apt-get update -qq ||
    ! $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; then
    echo "setup: could not install $packages; is the network there? Install them by hand and go on" >&2
    case " $packages " in
    *openssh*) echo "setup: or set KEEPSTONE_TEST_SSHD=off, which skips the tests that need OpenSSH" >&2 ;;
    esac
    case " $packages " in
    *node* | *npm*) echo "setup: or set KEEPSTONE_TEST_AZURE=off, which skips the tests that need Node.js" >&2 ;;
    esac
    exit 1
fi
case " $packages " in
*" openssh-server "*)
    # `update-rc.d` speaks to systemd, too, where that is what boots; units that listen for it only `systemctl` knows.
    $root update-rc.d ssh disable >/dev/null 2>&1 || true
    if have systemctl; then
        $root systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
    fi
    have_sshd || {
        echo "setup: openssh-server is installed, but there is no sshd; set KEEPSTONE_TEST_SSHD=off to go on" >&2
        exit 1
    }
    echo "setup: the system's own ssh server stays off; to have it: systemctl enable --now ssh"
    ;;
esac
have_libclang || {
    echo "setup: libclang-dev is installed, but libclang is not where it is looked for; set LIBCLANG_PATH" >&2
    exit 1
}
