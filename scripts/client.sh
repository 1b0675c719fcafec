#!/bin/sh
# Builds the package for browsers and Node (gateway/client) and runs its tests, also against the programs in target/debug:
# `make client` calls this.
set -eu
cd "$(dirname "$0")/.."

npm --prefix gateway/client ci --no-audit --no-fund
# What drives the browser.
[ -d tests/browser/node_modules ] || npm --prefix tests/browser ci --no-audit --no-fund
npm --prefix gateway/client run build
npm --prefix gateway/client test
npm --prefix gateway/client run test:gateway
