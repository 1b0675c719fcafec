#!/bin/sh
# The network between the nodes and this machine: a bridge in a network namespace of its own, which goes with this process.
set -eu
ip link set lo up
ip link add switch0 type bridge
ip link set switch0 up
exec sleep infinity
