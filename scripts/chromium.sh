#!/bin/sh
# Prints the path of a Chromium for the browser tests: an installed one, else Debian's package, installed on first use.
# CHROMIUM=/path/to/browser overrides both.
set -eu

if [ -n "${CHROMIUM:-}" ]; then
    [ -x "$CHROMIUM" ] || { echo "error: CHROMIUM=$CHROMIUM is not a program." >&2; exit 1; }
    echo "$CHROMIUM"
    exit 0
fi

find_browser() {
    for name in chromium chromium-browser google-chrome-stable google-chrome; do
        command -v "$name" && return 0
    done
    return 1
}

find_browser && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: no Chromium found. Install one, or set CHROMIUM=/path/to/chromium." >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null; then
        echo "error: no Chromium found. Install it (sudo apt-get install chromium), or set CHROMIUM=/path/to/chromium." >&2
        exit 1
    fi
    as_root=sudo
fi

echo "Installing Debian's chromium, once." >&2
{
    # Lock::Timeout: another apt on the machine is waited for, not fatal.
    $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y -qq --no-install-recommends chromium </dev/null
} >&2
find_browser || { echo "error: the chromium package brought no browser." >&2; exit 1; }
