#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What volumed refuses, it refuses with a reason, and leaves as it is.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"

# refused NAME STATUS PATTERN ARGUMENT...: volumed ends with that status and a message that matches.
refused() {
	local name=$1 status=$2 pattern=$3 got=0 output

	shift 3
	output=$(timeout 60 "$volumed" "$@" 2>&1 </dev/null) || got=$?
	expect "$name: exit status" "$status" "$got"
	expect_match "$name: says why" "$pattern" "$output"
}

# Options.
refused "no data folder" 2 "data-dir"
refused "unknown option" 2 "no-such-option" --no-such-option
refused "stray argument" 2 "stray" --data-dir "$dir/x" stray
refused "two data folders" 2 "more than one" --data-dir "$dir/x" --check "$dir/y"
refused "empty data folder" 2 "empty" --data-dir ""
refused "size that is none" 2 "10GiB" --data-dir "$dir/x" --volume-size lots
refused "odd size" 2 "multiple of 4096" --data-dir "$dir/x" --volume-size 5000
refused "no size at all" 2 "multiple of 4096" --data-dir "$dir/x" --volume-size 0
refused "too large" 2 "64TiB" --data-dir "$dir/x" --volume-size 65TiB
refused "threads" 2 "threads" --data-dir "$dir/x" --threads 0
refused "log level" 2 "debug" --data-dir "$dir/x" --log-level loud
refused "modes that exclude each other" 2 "exclude" --check "$dir/x" --stdio
expect "nothing was made by all that" "" "$(ls -A "$dir")"

# Addresses.
refused "remote address" 1 "allow-remote-plaintext" --data-dir "$dir/a" --nbd-listen 0.0.0.0:0
refused "remote IPv6 address" 1 "allow-remote-plaintext" --data-dir "$dir/a" --nbd-listen "[::]:0"
for address in 127.0.0.1 127.0.0.1: :10809 ::1:10809 "[::1" "[]:1" localhost:x 127.0.0.1:99999; do
	refused "address $address" 1 "127.0.0.1:10809" --data-dir "$dir/a" --nbd-listen "$address"
done
port=$(free_port)
/usr/bin/python3 -c '
import signal, socket, sys
s = socket.socket(); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print(flush=True)
signal.pause()' "$port" >"$dir/holder" &
holder=$!
until [ -s "$dir/holder" ]; do sleep 0.05; done
refused "port in use" 1 "127.0.0.1:$port.*in use" --data-dir "$dir/a" --nbd-listen "127.0.0.1:$port"
kill $holder
wait $holder 2>/dev/null

# Folders and files.
refused "missing parent folder" 1 "does not exist" --data-dir "$dir/no/such/folder"
echo hello >"$dir/file"
refused "a file for a folder" 1 "file" --data-dir "$dir/file"
deep=$dir/$(printf 'x%.0s' {1..120})
refused "a path too long for a unix socket" 1 "shorter path" --data-dir "$deep"

# A store of somebody else is not touched.
foreign() {
	local name=$1 sum

	sum=$(sha256sum <"$dir/foreign/store")
	refused "$name" 1 "$dir/foreign/store" --data-dir "$dir/foreign"
	expect "$name: it is untouched" "$sum" "$(sha256sum <"$dir/foreign/store")"
	refused "$name, --check" 2 "$dir/foreign/store" --check "$dir/foreign"
}
mkdir "$dir/foreign"
echo "my diary" >"$dir/foreign/store"
foreign "a text file"
dd if=/dev/urandom of="$dir/foreign/store" bs=1M count=8 status=none
foreign "random bytes"
rm "$dir/foreign/store"
truncate -s 64M "$dir/foreign/store"
/sbin/mkfs.ext4 -q "$dir/foreign/store"
foreign "a file system"

# Sockets: a dead one is replaced, a live one and anything else is not.
mkdir "$dir/taken"
echo "not a socket" >"$dir/taken/nbd.sock"
refused "a file where the socket goes" 1 "no socket" --data-dir "$dir/taken"
expect "that file is untouched" "not a socket" "$(cat "$dir/taken/nbd.sock")"
rm "$dir/taken/nbd.sock"
/usr/bin/python3 -c '
import signal, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(flush=True)
signal.pause()' "$dir/taken/nbd.sock" >"$dir/holder2" &
holder=$!
until [ -s "$dir/holder2" ]; do sleep 0.05; done
refused "a live socket" 1 "another process listens" --data-dir "$dir/taken"
run_ok "the live socket is still there" test -S "$dir/taken/nbd.sock"
kill $holder
wait $holder 2>/dev/null

# A read-only folder, as a user for whom it is.
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	mkdir "$dir/ro"
	chmod 755 "$dir" "$dir/ro"
	cp "$volumed" "$dir/volumed"
	chmod 755 "$dir/volumed"
	got=0
	output=$(setpriv --reuid 65534 --clear-groups "$dir/volumed" --data-dir "$dir/ro" 2>&1) ||
		got=$?
	expect "a read-only folder: exit status" 1 "$got"
	expect_match "a read-only folder: says why" "$dir/ro.*Permission denied" "$output"
else
	skip "a read-only folder" "needs root, to become somebody else"
fi

# The daemon at work.
start_daemon --volume-size 64MiB || { fail "the daemon starts"; exit 1; }
expect "DIR has mode 0700" 700 "$(stat -c %a "$dir/data")"
expect "the store has mode 0600" 600 "$(stat -c %a "$dir/data/store")"
expect "the socket has mode 0600" 600 "$(stat -c %a "$socket")"
refused "a second daemon on the same folder" 1 "another volumed" --data-dir "$dir/data"
refused "a second daemon on the same store" 1 "$dir/data/store" --data-dir "$dir/other" \
	--store "$dir/data/store"
refused "--check while it runs" 2 "another volumed" --check "$dir/data"
run_ok "it still serves" nbdinfo --size "$uri"
kill -KILL "$pid"
wait "$pid" 2>/dev/null
pid=
run_ok "SIGKILL leaves the socket" test -S "$socket"
start_daemon || fail "it starts over a dead socket"
run_ok "it serves again" nbdinfo --size "$uri"
stop_daemon
expect "a clean stop" 0 $?
start_daemon --allow-remote-plaintext --nbd-listen 0.0.0.0:0 --nbd-listen "[::1]:0" ||
	fail "a remote address, when it is wanted"
expect_match "a remote address: a warning" "warning: .*without TLS" "$(cat "$dir/log")"
expect_match "IPv6 is served" "\[::1\]:[0-9]+" "$(grep ready "$dir/log")"
stop_daemon
expect "its clean stop" 0 $?
