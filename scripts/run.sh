#!/bin/sh
# Runs Tidings on this machine with the channels in docs/examples: nats-server, operator and gateway, each from this
# checkout. `make run` builds first and then calls this. Ctrl-C ends everything that was started here, and nothing else.
#
#   PORT        the gateway, with the demo page                       (default 8080)
#   ADMIN_PORT  the gateway's admin port; the operator's is one above (default 9090)
#   NATS_PORT   nats-server                                           (default 4222)
#   NATS_URL    a NATS server with JetStream that already runs; then none is started
#   CHANNELS    the folder of Channel manifests                       (default docs/examples)
#   RUN_DIR     streams, routes and logs                              (default .run/PORT)
#
# Streams stay in RUN_DIR, so that the next start goes on with them. Remove the folder to start afresh.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)

port=${PORT:-8080}
admin_port=${ADMIN_PORT:-9090}
nats_port=${NATS_PORT:-4222}
nats_url=${NATS_URL:-}
channels=${CHANNELS:-docs/examples}
state=${RUN_DIR:-.run/$port}
programs=${CARGO_TARGET_DIR:-target}/debug

started=          # "name:pid" of what runs, the newest first: the order in which it is ended
ending=

fail() {
    echo "error: $1" >&2
    shift
    for line in "$@"; do echo "       $line" >&2; done
    exit 1
}

# === Ending ===

alive() { kill -0 "$1" 2>/dev/null; }

stop() {
    [ -z "$ending" ] || return 0
    ending=yes
    # A second Ctrl-C, while we wait below, ends everything at once.
    trap 'for entry in $started; do kill -KILL "${entry#*:}" 2>/dev/null || true; done' INT TERM HUP
    for entry in $started; do
        pid=${entry#*:}
        kill -TERM "$pid" 2>/dev/null || continue
        tries=0
        while alive "$pid" && [ $tries -lt 100 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        if alive "$pid"; then
            echo "note: ${entry%:*} did not end within 10 seconds; killed." >&2
            kill -KILL "$pid" 2>/dev/null || true
        fi
        wait "$pid" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'echo; echo "Ending."; exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# === Starting ===

# In a session of its own, so that Ctrl-C reaches this script alone and things end in order; and bound to this script
# by the kernel where it can do that, so that nothing is left over even when the script is killed.
apart=
command -v setsid >/dev/null 2>&1 && apart=setsid
setpriv --pdeathsig TERM true 2>/dev/null && apart="$apart setpriv --pdeathsig TERM"

start() { # NAME PROGRAM ARGUMENTS...
    name=$1
    shift
    # shellcheck disable=SC2086 # $apart is words.
    $apart "$@" >"$state/$name.log" 2>&1 </dev/null &
    started="$name:$! $started"
}

last_words() { # NAME
    echo "       The end of $state/$1.log:" >&2
    tail -n 15 "$state/$1.log" | sed 's/^/       /' >&2
}

# Something ended by itself: say what, and what it last said.
still_running() {
    for entry in $started; do
        alive "${entry#*:}" && continue
        echo "error: ${entry%:*} ended." >&2
        last_words "${entry%:*}"
        exit 1
    done
    # The make that started us is gone without a word (killed -9): nobody can press Ctrl-C any more.
    [ -z "${MAKELEVEL:-}" ] || alive "$PPID" || exit 143
}

wait_until() { # SECONDS NAME WHAT COMMAND...
    deadline=$(($(date +%s) + $1)) name=$2 what=$3
    shift 3
    until "$@"; do
        still_running
        if [ "$(date +%s)" -ge "$deadline" ]; then
            echo "error: $what (waited for half a minute)" >&2
            last_words "$name"
            exit 1
        fi
        sleep 0.1
    done
}

# curl's exit code 7: nobody listens there. Every other answer, even none, comes from somebody.
listening() {
    code=0
    curl -s -o /dev/null --noproxy '*' --max-time 1 "http://127.0.0.1:$1/" 2>/dev/null || code=$?
    [ $code -ne 7 ]
}
status() { curl -s -o /dev/null --noproxy '*' --max-time 1 -w '%{http_code}' "$@" 2>/dev/null || true; }
answers_200() { [ "$(status "$1")" = 200 ]; }

check_port() { # VARIABLE PORT WHAT
    case $2 in
        '' | *[!0-9]* | ??????*) fail "$1=$2 is not a port number." ;;
    esac
    if [ "$2" -lt 1 ] || [ "$2" -gt 65535 ]; then fail "$1=$2 is not a port number."; fi
    case " $taken " in
        *" $2 "*) fail "port $2 would be used twice; $3 needs a port of its own." "Choose another: make run $1=$(($2 + 10))" ;;
    esac
    taken="$taken $2"
    if listening "$2"; then
        fail "port $2 is taken; $3 needs it." "End what listens there, or choose another port: make run $1=$(($2 + 10))" ${4:+"$4"}
    fi
}

command -v curl >/dev/null 2>&1 || fail "curl is needed." "Install it, for instance: apt-get install curl"
for program in tidings-operator tidings-gateway; do
    [ -x "$programs/$program" ] || fail "$programs/$program is missing." "Build it: make build"
done

taken=
check_port PORT "$port" "the gateway"
check_port ADMIN_PORT "$admin_port" "the gateway's admin port"
operator_port=$((admin_port + 1))
check_port ADMIN_PORT "$operator_port" "the operator's admin port (one above ADMIN_PORT)"
if [ -z "$nats_url" ]; then
    check_port NATS_PORT "$nats_port" "nats-server" "Or use the server that runs there: make run NATS_URL=nats://127.0.0.1:$nats_port"
    nats_server=$("$here/scripts/nats-server.sh")
    nats_url=nats://127.0.0.1:$nats_port
fi

mkdir -p "$state/routes"
# The operator writes them anew; those of channels that are no longer there must not be served meanwhile.
rm -f "$state/routes"/*

if [ -n "${nats_server:-}" ]; then
    start nats-server "$nats_server" --addr 127.0.0.1 --port "$nats_port" --jetstream --store_dir "$state/nats"
    wait_until 30 nats-server "nats-server does not listen on port $nats_port" listening "$nats_port"
fi
start operator "$programs/tidings-operator" --nats "$nats_url" --admin "127.0.0.1:$operator_port" \
    --channels "$channels" --routes "$state/routes"
start gateway "$programs/tidings-gateway" --nats "$nats_url" --listen "127.0.0.1:$port" --admin "127.0.0.1:$admin_port" \
    --routes "$state/routes" --demo --drain-delay 0s --drain-window 0s

wait_until 30 operator "the operator is not ready; is NATS at $nats_url?" answers_200 "http://127.0.0.1:$operator_port/readyz"
wait_until 30 gateway "the gateway is not ready; is NATS at $nats_url?" answers_200 "http://127.0.0.1:$admin_port/readyz"

# === Ready ===

base=http://127.0.0.1:$port
events=$base/channels/demo/hello/events
if [ "$channels" = docs/examples ]; then
    # The stream stays open, so curl runs into its time limit; the status line has come by then.
    wait_until 30 operator "the channel demo/hello is not served; has NATS at $nats_url JetStream?" answers_200 "$events"
fi

# The nats client that is installed, or the script that builds it on first use; both work as they stand in any folder.
nats=nats
command -v nats >/dev/null 2>&1 || nats=$here/scripts/nats.sh
case $nats in *[!A-Za-z0-9/._-]*) nats="'$nats'" ;; esac

cat <<READY

ready: $base

  subscribe         curl -N $events
  publish           curl -d 'Hello from curl' $events
  publish by NATS   $nats --server $nats_url pub tidings.demo.hello 'Hello from NATS'
  demo page         $base/

  More channels: $channels    Metrics: http://127.0.0.1:$admin_port/metrics    Logs: $state    Ctrl-C ends it.

READY

while :; do
    # In the background, so that a signal is acted on at once.
    sleep 1 &
    wait $! || true
    still_running
done
