#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# For the shell tests; source it first. It changes to the project's root, makes a scratch folder
# $dir, and when the script ends stops what it started, removes the folder and prints the TAP plan.
# VOLUMED names the program under test.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
volumed=${VOLUMED:-build/bin/volumed}
dir=$(mktemp -d "${TMPDIR:-/tmp}/volumed-test.XXXXXX")
n_tests=0
n_failed=0
pid=

finish() {
	local status=$?

	for job in $(jobs -p); do
		kill -KILL "$job" 2>/dev/null
	done
	wait
	rm -rf "$dir"
	echo "1..$n_tests"
	[ "$status" -eq 0 ] && [ "$n_failed" -eq 0 ]
	exit
}
trap finish EXIT

pass() {
	n_tests=$((n_tests + 1))
	echo "ok $n_tests - $1"
}

# fail NAME [DETAILS]
fail() {
	n_tests=$((n_tests + 1))
	n_failed=$((n_failed + 1))
	echo "not ok $n_tests - $1"
	[ -z "${2:-}" ] || echo "# ${2//$'\n'/$'\n# '}"
}

# expect NAME EXPECTED ACTUAL
expect() {
	if [ "$2" = "$3" ]; then
		pass "$1"
	else
		fail "$1" "expected: $2"$'\n'"but got:  $3"
	fi
}

# expect_match NAME PATTERN TEXT: the text contains the extended regular expression.
expect_match() {
	if grep -qE -- "$2" <<<"$3"; then
		pass "$1"
	else
		fail "$1" "expected to match: $2"$'\n'"but got: $3"
	fi
}

# run_ok NAME COMMAND...: the command exits with 0.
run_ok() {
	local name=$1 output

	shift
	if output=$("$@" 2>&1); then
		pass "$name"
	else
		fail "$name" "$*"$'\n'"$output"
	fi
}

skip() {
	n_tests=$((n_tests + 1))
	echo "ok $n_tests - $1 # SKIP $2"
}

# start_daemon [ARGUMENT...]: starts volumed on $dir/data and waits until it is ready; its pid is in
# $pid, its log in $dir/log. Returns 1 if it ended instead.
start_daemon() {
	mkdir -p "$dir"
	: >"$dir/log"
	"$volumed" --data-dir "$dir/data" "$@" >>"$dir/log" 2>&1 &
	pid=$!
	for _ in $(seq 600); do
		grep -q 'ready' "$dir/log" && return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	sed 's/^/# volumed did not start: /' "$dir/log"
	pid=
	return 1
}

# stop_daemon [SIGNAL]: returns the daemon's exit status.
stop_daemon() {
	local status=0

	kill -"${1:-TERM}" "$pid"
	wait "$pid" || status=$?
	pid=
	return $status
}

# A TCP port that is free now.
free_port() {
	/usr/bin/python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

socket=$dir/data/nbd.sock
# shellcheck disable=SC2034
uri="nbd+unix:///?socket=$socket"
