#!/bin/sh
# Writes the images as OCI archives, without a container engine. `make images` calls this.
#
#   scripts/images.sh [DIR]        (default: images/ below the build directory)
#
# prints one line for each: the image's name, and the archive. containerd takes an archive with `ctr images import`, podman
# with `podman load`, a registry with `skopeo copy oci-archive:FILE docker://NAME`.
#
#   IMAGES      the registry and folder of the names     (default ghcr.io/tidings-dev)
#   VERSION     the tag                                  (default: the version in Cargo.toml)
#   PROGRAMS    a directory with built programs; then nothing is built. For tests: debug builds make large images.
#
# The same commit, toolchain and base libraries give the same bytes, wherever the checkout is.
set -eu
cd "$(dirname "$0")/.."

images=${IMAGES:-ghcr.io/tidings-dev}
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || revision=$revision-modified
target=${CARGO_TARGET_DIR:-target}
out=${1:-$target/images}

case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
tar --version 2>/dev/null | grep -q GNU || { echo "error: GNU tar is needed." >&2; exit 1; }

if [ -z "${PROGRAMS:-}" ]; then
    # Paths of this machine would end up in messages of panics, and so in the digest. A directory of its own keeps these
    # flags from rebuilding everything else.
    cargo_home=$(cd "${CARGO_HOME:-$HOME/.cargo}" && pwd)
    export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$cargo_home=/cargo"
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037%s' "--remap-path-prefix=$cargo_home=/cargo" "--remap-path-prefix=$PWD=/tidings") \
        cargo build --release --locked --target-dir "$target/for-images" -p tidings-operator -p tidings-gateway >&2
    PROGRAMS=$target/for-images/release
fi
# The pinned one, whatever is installed.
nats_version=$(sed -n 's/^version=//p' scripts/nats-server.sh)
nats_server=$(scripts/go-tool.sh nats-server "$nats_version" github.com/nats-io/nats-server/v2)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

sum() { sha256sum "$1" | cut -d ' ' -f 1; }
size() { wc -c <"$1" | tr -d ' '; }
# Owner, order and time say nothing about the content.
pack() { # DIR NAME...
    directory=$1
    shift
    tar --sort=name --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$directory" -cf - "$@"
}

blob() { # FILE: moves it to where its digest says
    digest=$(sum "$1")
    mv "$1" "$layout/blobs/sha256/$digest"
}

image() { # NAME VERSION REVISION TITLE PROGRAM...: prints the image's name and its archive
    name=$images/$1:$2 file=$1.tar layout=$scratch/$1
    labels=$(printf '{"org.opencontainers.image.title":"%s","org.opencontainers.image.version":"%s","org.opencontainers.image.revision":"%s","org.opencontainers.image.licenses":"Apache-2.0"}' \
        "$4" "$2" "$3")
    tag=$2
    shift 4
    mkdir -p "$layout/blobs/sha256"
    scripts/image-root.sh "$layout-root" "$@"
    pack "$layout-root" . >"$scratch/layer.tar"
    diff_id=$(sum "$scratch/layer.tar")
    gzip -n "$scratch/layer.tar"
    layer_size=$(size "$scratch/layer.tar.gz")
    blob "$scratch/layer.tar.gz"
    layer=$digest

    printf '{"architecture":"%s","os":"linux","config":{"User":"65532:65532","Env":["PATH=/usr/local/bin"],"Cmd":["%s","--help"],"Labels":%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created_by":"scripts/images.sh"}]}' \
        "$architecture" "$(basename "$1")" "$labels" "$diff_id" >"$scratch/config"
    config_size=$(size "$scratch/config")
    blob "$scratch/config"
    config=$digest

    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}],"annotations":%s}' \
        "$config" "$config_size" "$layer" "$layer_size" "$labels" >"$scratch/manifest"
    manifest_size=$(size "$scratch/manifest")
    blob "$scratch/manifest"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
        "$digest" "$manifest_size" "$architecture" "$name" "$tag" >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

    mkdir -p "$out"
    pack "$layout" blobs index.json oci-layout >"$scratch/archive"
    mv "$scratch/archive" "$out/$file"
    echo "$name $out/$file"
}

image tidings "$version" "$revision" "Tidings: operator and gateway" "$PROGRAMS/tidings-gateway" "$PROGRAMS/tidings-operator"
image nats-server "$nats_version" "v$nats_version" "nats-server, for the built-in NATS of Tidings" "$nats_server"
