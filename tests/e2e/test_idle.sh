#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An idle daemon uses no CPU, and a fresh one little memory.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

start_daemon || { fail "the daemon starts"; exit 1; }

# CPU ticks (10 ms) that the daemon has used so far.
ticks() {
	local stat

	stat=$(cat "/proc/$pid/stat")
	# The name may hold spaces: count from its closing parenthesis.
	awk '{ print $12 + $13 }' <<<"${stat##*) }"
}

# idle NAME: at most one tick in two seconds.
idle() {
	local before after

	sleep 0.5
	before=$(ticks)
	sleep 2
	after=$(ticks)
	if [ $((after - before)) -le 1 ]; then
		pass "$1"
	else
		fail "$1" "$((after - before)) ticks in two seconds"
	fi
}

if [ "${MODE:-release}" = release ]; then
	rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")
	if [ "$rss" -lt 65536 ]; then
		pass "a fresh daemon's resident memory is under 64 MiB"
		echo "# $rss KiB"
	else
		fail "a fresh daemon's resident memory is under 64 MiB" "$rss KiB"
	fi
else
	skip "a fresh daemon's resident memory" "sanitizers take their own"
fi
idle "idle after the start"
run_ok "some work" qemu-io -f raw -c "write -P 1 0 8M" -c "read -P 1 0 8M" "$uri"
sleep 3 # a checkpoint may follow
idle "idle after some work"
/usr/bin/python3 -c '
import nbd, signal, sys
handles = [nbd.NBD() for _ in range(4)]
for h in handles:
    h.connect_uri(sys.argv[1])
print(flush=True)
signal.pause()' "$uri" >"$dir/peer" &
peer=$!
until [ -s "$dir/peer" ]; do sleep 0.05; done
idle "idle with four silent connections"
kill $peer
wait $peer 2>/dev/null
stop_daemon
expect "a clean stop" 0 $?
