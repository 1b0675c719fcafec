#!/bin/sh
# build.sh control-plane|nodes
#
# Builds the programs of the test cluster from the Go modules pinned in go.mod and prints the directory that holds them:
#   control-plane   etcd kube-apiserver kube-controller-manager kubectl
#   nodes           kube-scheduler kubelet kube-proxy helm coredns pause
#
# The first build downloads some 140 MB and takes minutes; after that the directory is just found again. It lies outside
# the tree, under $TIDINGS_CACHE (default: ${XDG_CACHE_HOME:-~/.cache}/tidings), named by a hash of everything that goes
# into it. It appears there by one rename, so a build that was broken off never counts.
set -eu
cd "$(dirname "$0")"

case "${1-}" in
control-plane) packages="./multicall ./control-plane" ;;
nodes) packages="./multicall ./nodes ./dns ./pause" ;;
*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
set=$1
command -v go >/dev/null || { echo "build.sh: the test cluster is built with Go; please install it" >&2; exit 1; }

# The version and the platform of the compiler, not the machine's: a new Go makes a new build.
hash() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
key=$({
    go env GOVERSION GOOS GOARCH
    for package in $packages; do cat "$package"/*.go; done
    cat go.mod go.sum build.sh
} | hash | cut -c1-16)
cache=${TIDINGS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidings}/cluster
out=$cache/$set-$key
if [ -d "$out" ]; then
    touch "$out" # Its last use, for the sweep below.
    echo "$out"
    exit
fi

# One build at a time: two would fight for the processors and link everything twice.
mkdir -p "$cache"
if command -v flock >/dev/null; then
    exec 9>"$cache/lock"
    flock 9
    [ ! -d "$out" ] || { echo "$out"; exit; }
fi
tmp=$(mktemp -d "$cache/.$set-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
echo "build.sh: building the test cluster's $set; this takes some minutes, once" >&2

version() { go list -m -f '{{.Version}}' "$1"; }
kubernetes=$(version k8s.io/kubernetes)
minor=${kubernetes#v1.}
minor=${minor%%.*}
# Without these, kubectl and the API server report v0.0.0, and helm takes every cluster for Kubernetes 1.20.
flags="-s -w"
flag() { flags="$flags -X $1=$2"; }
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flag $package.gitVersion "$kubernetes"
    flag $package.gitMajor 1
    flag $package.gitMinor "$minor"
    flag $package.gitTreeState clean
    flag $package.buildDate 1970-01-01T00:00:00Z
done
flag helm.sh/helm/v3/internal/version.version "$(version helm.sh/helm/v3)"
for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
    flag $package.k8sVersionMajor 1
    flag $package.k8sVersionMinor "$minor"
done

compile() { CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "$flags" -o "$tmp/$1" "$2" >&2 9>&-; }
names() { for name in $2; do ln -s "$1" "$tmp/$name"; done; }
case $set in
control-plane)
    compile control-plane ./control-plane
    names control-plane "etcd kube-apiserver kube-controller-manager kubectl"
    ;;
nodes)
    compile nodes ./nodes
    names nodes "kube-scheduler kubelet kube-proxy"
    compile helm helm.sh/helm/v3/cmd/helm
    compile coredns ./dns
    compile pause ./pause
    ;;
esac
chmod 755 "$tmp"
mv "$tmp" "$out"
# Builds of other inputs that nobody has used for a month.
find "$cache" -mindepth 1 -maxdepth 1 -name "$set-*" -mtime +30 -exec rm -rf {} + >&2
echo "$out"
