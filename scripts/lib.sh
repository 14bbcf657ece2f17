# shellcheck shell=bash
# lib.sh: what the scripts share; sourced, never run.
#
# Two promises live here. A machine that has everything is not touched: packages are asked for one by one and apt is called only for what is
# missing. And nothing of Python's reaches the system: pip works in private environments under the cache directory.

set -euo pipefail

NEXTD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NEXTD_CACHE=${NEXTD_CACHE:-${HOME:-}/.cache/nextd}
# A build machine may have no home of its own; the checkout is writable, or nothing here would work.
mkdir -p "$NEXTD_CACHE" 2> /dev/null || NEXTD_CACHE=$NEXTD_ROOT/models/cache
export NEXTD_CACHE

# What the daemon is built from, and what its scripts need to fetch a model.
BUILD_PACKAGES=(build-essential pkg-config libmicrohttpd-dev libuv1-dev libjansson-dev libgnutls28-dev libpcre2-dev libunistring-dev
    libinih-dev libsystemd-dev)
FETCH_PACKAGES=(ca-certificates python3 python3-venv)

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# retry N COMMAND...: runs it up to N times, waiting a little longer after each failure.
retry() {
    local n=$1 i
    shift
    for ((i = 1; i <= n; i++)); do
        "$@" && return 0
        if ((i < n)); then
            say "attempt $i of $n failed, trying again in $((2 * i)) s: $1"
            sleep $((2 * i))
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        die "installing Debian packages needs root, and there is no sudo: run as root: $*"
    fi
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

# need_packages NAME...: installs those Debian packages that are missing, and does nothing when none is.
need_packages() {
    local p missing=()
    if ! command -v dpkg-query > /dev/null; then
        say "this is no Debian system: expecting these to be installed already: $*"
        return 0
    fi
    for p in "$@"; do is_installed "$p" || missing+=("$p"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing from Debian: ${missing[*]}"
    retry 3 as_root apt-get update -q > /dev/null < /dev/null || die "apt-get update failed"
    retry 3 as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" > /dev/null < /dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

# make_venv DIR REQUIREMENTS...: a private Python environment with exactly these, made once. Half-made ones are made anew.
make_venv() {
    local dir=$1
    shift
    [ ! -e "$dir/complete" ] || return 0
    need_packages "${FETCH_PACKAGES[@]}"
    rm -rf "$dir"
    mkdir -p "${dir%/*}"
    # Made under its last name, because an environment does not survive being moved.
    python3 -m venv "$dir" || die "python3 -m venv $dir failed"
    # Debian 12's pip cannot resume a download; this one can. Where it is not to be had the old one does, from the start.
    retry 2 "$dir/bin/python" -m pip install -q --disable-pip-version-check pip==26.3 2> /dev/null || true
    if [ $# -gt 0 ]; then
        retry 3 "$dir/bin/python" -m pip install -q --disable-pip-version-check "$@" || die "pip could not install: $*"
    fi
    touch "$dir/complete"
}

# n_jobs: compilers to run at once: one per processor this process may use.
n_jobs() { nproc 2> /dev/null || echo 2; }

# build_release: build/nextd, up to date. Quiet when there is nothing to do.
build_release() {
    need_packages "${BUILD_PACKAGES[@]}"
    make -s -C "$NEXTD_ROOT" -q all 2> /dev/null || say "building (make -j$(n_jobs))"
    make -s -C "$NEXTD_ROOT" -j"$(n_jobs)" all
}
