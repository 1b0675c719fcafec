#!/bin/sh
# Prints the path of a browser for the browser tests: an installed one, else Debian's package, installed on first use.
# CHROMIUM=/path/to/browser or FIREFOX=/path/to/browser overrides both.
#
#   scripts/browser.sh chromium | firefox
set -eu

case ${1:-} in
    chromium) variable=CHROMIUM given=${CHROMIUM:-} package=chromium names="chromium chromium-browser google-chrome-stable google-chrome" ;;
    firefox) variable=FIREFOX given=${FIREFOX:-} package=firefox-esr names="firefox-esr firefox" ;;
    *) echo "usage: $0 chromium | firefox" >&2; exit 2 ;;
esac
hint="set $variable=/path/to/browser"

if [ -n "$given" ]; then
    [ -x "$given" ] || { echo "error: $variable=$given is not a program." >&2; exit 1; }
    echo "$given"
    exit 0
fi

find_browser() {
    for name in $names; do
        command -v "$name" && return 0
    done
    return 1
}

find_browser && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: no $1 found. Install one, or $hint." >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1 || ! sudo -n true 2>/dev/null; then
        echo "error: no $1 found. Install it (sudo apt-get install $package), or $hint." >&2
        exit 1
    fi
    as_root=sudo
fi

echo "Installing Debian's $package, once." >&2
{
    # Lock::Timeout: another apt on the machine is waited for, not fatal.
    $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y -qq --no-install-recommends "$package" </dev/null
} >&2
find_browser || { echo "error: the package $package brought no browser." >&2; exit 1; }
