# The image of both programs, for any builder: `docker build .`, `podman build .`, `buildah build .`
# Without one: `make images` writes the same image as an OCI archive.
#
# One image, because operator and gateway belong together: one version to pin, scan and pull.
# `command` says which one runs: tidings-operator or tidings-gateway.

FROM docker.io/library/rust:1.95-bookworm AS build
# aws-lc needs cmake; the rest is in the image.
RUN apt-get update && apt-get install -y --no-install-recommends cmake ca-certificates && rm -rf /var/lib/apt/lists/*
WORKDIR /tidings
COPY . .
# Paths of the build would end up in messages of panics; see scripts/images.sh.
ENV CFLAGS="-ffile-prefix-map=/usr/local/cargo=/cargo"
ENV RUSTFLAGS="--remap-path-prefix=/usr/local/cargo=/cargo"
RUN cargo build --release --locked --target-dir /build -p tidings-operator -p tidings-gateway \
    && scripts/image-root.sh /root-of-image /build/release/tidings-operator /build/release/tidings-gateway

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidings: operator and gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of-image/ /
ENV PATH=/usr/local/bin
USER 65532:65532
CMD ["tidings-gateway", "--help"]
