#!/bin/sh
# node.sh DIR NUMBER NODES KUBELET KUBE-PROXY
#
# A node of the test cluster: the first process in network, mount and process namespaces of its own. Whoever kills it
# ends everything the node runs, and no mount, interface, route or packet filter of it stays behind. Its configuration
# lies in DIR; its network interface eth0 is put into its namespace from outside.
set -eu
dir=$1 number=$2 nodes=$3 kubelet=$4 proxy=$5

# Volumes that the kubelet mounts must be seen by the containers, but by nobody outside.
mount --make-rshared /
# Paths that are built into the programs: writes go to DIR.
for path in lib log; do
    mkdir -p "$dir/var/$path" "$dir/work/$path"
    mount -t overlay overlay -o "lowerdir=/var/$path,upperdir=$dir/var/$path,workdir=$dir/work/$path" "/var/$path"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns

ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add "10.99.0.$number/24" dev eth0
ip link set eth0 up
ip route add default via 10.99.0.254
other=1
while [ "$other" -le "$nodes" ]; do
    [ "$other" = "$number" ] || ip route add "10.244.$other.0/24" via "10.99.0.$other"
    other=$((other + 1))
done
echo 1 >/proc/sys/net/ipv4/ip_forward
# A pod that reaches a neighbour on its own bridge through a Service passes the packet filter too.
[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

containerd --config "$dir/containerd.toml" >>"$dir/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.05; done
for image in "$dir"/images/*.tar; do ctr --namespace k8s.io images import "$image" >>"$dir/containerd.log" 2>&1; done

"$proxy" --config="$dir/kube-proxy.json" >>"$dir/kube-proxy.log" 2>&1 &
"$kubelet" --config="$dir/kubelet.json" --kubeconfig="$dir/kubelet.kubeconfig" --hostname-override="node$number" \
    --node-ip="10.99.0.$number" --root-dir="$dir/kubelet" >>"$dir/kubelet.log" 2>&1 &
wait
