#!/bin/sh
# Builds the parser of PromQL that the tests of the chart use, and prints its path; once for each version and compiler.
set -eu
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "build.sh: PromQL is parsed by Prometheus' own parser, in Go; please install Go" >&2; exit 1; }

key=$({ go env GOVERSION GOOS GOARCH; cat main.go go.mod go.sum; } | sha256sum | cut -c1-16)
cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidings}/promql-$key
if [ ! -x "$cache/promql" ]; then
    mkdir -p "$cache"
    CGO_ENABLED=0 go build -p 2 -trimpath -ldflags '-s -w' -o "$cache/.promql.$$" . >&2
    mv -f "$cache/.promql.$$" "$cache/promql"
fi
echo "$cache/promql"
