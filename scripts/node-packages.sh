#!/bin/sh
# Installs what a Kubernetes node on this machine needs beside our own builds, from Debian's packages: containerd, runc, CNI
# plugins, iptables, nftables, conntrack, iproute2. Does nothing if it is there.
set -eu

missing=
for program in containerd runc ctr iptables nft conntrack ip; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing="$missing CNI-plugins"
[ -r /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "error: missing:$missing. Install containerd, runc, CNI plugins, iptables, nftables, conntrack, iproute2 and ca-certificates." >&2
    exit 1
fi
echo "Installing Debian's containerd, runc and what nodes need beside them, once." >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A containerd or kubelet of the machine itself is not started: nodes run their own. What is there is not upgraded.
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq >"$log" 2>&1 || true
if ! apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y -qq --no-install-recommends --no-upgrade \
    containerd runc containernetworking-plugins iptables nftables conntrack iproute2 ca-certificates </dev/null >>"$log" 2>&1; then
    cat "$log" >&2
    echo "error: apt-get could not install what is missing:$missing" >&2
    exit 1
fi
