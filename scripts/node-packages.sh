#!/bin/sh
# Installs what a Kubernetes node on this machine needs beside our own builds, from Debian's packages: containerd, runc, CNI
# plugins, iptables, nftables, conntrack, iproute2. Does nothing if it is there.
set -eu

missing=
for program in containerd runc ctr iptables nft conntrack ip; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing="$missing CNI-plugins"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "error: missing:$missing. Install containerd, runc, CNI plugins, iptables, nftables, conntrack and iproute2." >&2
    exit 1
fi
echo "Installing Debian's containerd, runc and what nodes need beside them, once." >&2
# A containerd or kubelet of the machine itself is not started: nodes run their own.
{
    apt-get -o DPkg::Lock::Timeout=300 update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
        containerd runc containernetworking-plugins iptables nftables conntrack iproute2 ca-certificates </dev/null
} >&2
