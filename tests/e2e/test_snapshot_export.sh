#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Snapshots as read-only NBD exports on the unix socket: what they hold, that nobody writes to them,
# that one outlives its deletion for who is connected, and what a damaged object does.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
volumectl=$(realpath "${volumed%/*}/volumectl")

ctl() {
	timeout 120 "$volumectl" --socket "$dir/a/volumed.sock" "$@"
}

start() {
	"$volumed" --data-dir "$dir/a" --zone zone-a --zone-number 1 --volume-size none \
		--snapshots "$dir/region" >>"$dir/log" 2>&1 &
	pid=$!
	ctl ping --wait --quiet || { fail "the daemon starts" "$(cat "$dir/log")"; exit 1; }
}

end() {
	local status=0

	kill -"$1" "$pid"
	wait "$pid" 2>/dev/null || status=$?
	return $status
}

# refused NAME COMMAND...
refused() {
	local name=$1

	shift
	expect "$name" refused "$("$@" >/dev/null 2>&1 && echo served || echo refused)"
}

holds() {
	find "$dir/region/holds" -type f | wc -l
}

start
head -c 12M /dev/urandom >"$dir/one"
truncate -s 64M "$dir/one"
ctl volume create --size 64MiB --name disk --quiet >/dev/null
uri=$(ctl attach disk --quiet)
run_ok "the disk is written" nbdcopy "$dir/one" "$uri"
one=$(ctl snapshot create disk --wait-completed --quiet)
run_ok "it is overwritten" qemu-io -f raw -c "write -P 7 8M 512k" "$uri"
two=$(ctl snapshot create disk --wait-completed --quiet)
export_one=$(ctl snapshot export "$one" --quiet)
expect "the URI is printed" "nbd+unix:///$one?socket=$dir/a/nbd.sock" "$export_one"
export_two="nbd+unix:///$two?socket=$dir/a/nbd.sock"

run_ok "qemu-img converts it" qemu-img convert -f raw -O qcow2 "$export_one" "$dir/one.qcow2"
run_ok "the image holds what the disk held" \
	qemu-img compare -f raw -F qcow2 "$dir/one" "$dir/one.qcow2"
run_ok "nbdcopy copies it" nbdcopy "$export_one" "$dir/copy"
run_ok "the copy holds the same" cmp "$dir/one" "$dir/copy"
run_ok "nbdcopy copies the second" nbdcopy "$export_two" "$dir/copy"
run_ok "it holds what was written after the first" qemu-io -f raw -c "read -P 7 8M 512k" "$dir/copy"
refused "the two differ" cmp -s "$dir/one" "$dir/copy"
expect "it is read-only" true "$(nbdinfo --json "$export_one" | /usr/bin/python3 -c 'import json, sys
print(str(json.load(sys.stdin)["exports"][0]["is_read_only"]).lower())')"
refused "a write" qemu-io -f raw -c "write 0 4k" "$export_one"
expect "what is not there is known to be zeroes" "12582912 54525952" \
	"$(nbdinfo --map "$export_one" | awk '$3 == 0 { d += $2 } $3 == 3 { z += $2 } END { print d, z }')"
refused "no such snapshot" nbdinfo "nbd+unix:///snap-01234567890123456?socket=$dir/a/nbd.sock"

# ---- Deleted while it is read, killed while it is open ----

expect "nobody is connected: nothing is held" 0 "$(holds)"
/usr/bin/python3 - "$export_one" "$dir/one" "$volumectl" "$dir/a/volumed.sock" "$one" \
	>"$dir/python" 2>&1 <<'PY'
import nbd, subprocess, sys
uri, want, ctl, socket, snap = sys.argv[1:]
h, g = nbd.NBD(), nbd.NBD()
h.connect_uri(uri)
g.connect_uri(uri)
subprocess.run([ctl, "--socket", socket, "snapshot", "delete", snap], check=True,
               stdout=subprocess.DEVNULL)
h.shutdown()
with open(want, "rb") as f:
    for at in range(0, 64 << 20, 4 << 20):
        assert g.pread(4 << 20, at) == f.read(4 << 20), at
g.shutdown()
print("whole")
PY
expect "deleted, it stays whole for who is connected" whole "$(cat "$dir/python")"
for _ in $(seq 100); do
	[ "$(holds)" -ne 0 ] || break
	sleep 0.1
done
refused "when he has left it is gone" nbdinfo "$export_one"
qemu-io -r -f raw -c "sleep 60000" "$export_two" >/dev/null 2>&1 &
reader=$!
for _ in $(seq 100); do
	[ "$(holds)" -eq 0 ] || break
	sleep 0.1
done
expect "who is connected holds it" 1 "$(holds)"
end KILL
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null || true
start
run_ok "after SIGKILL it is served again" nbdcopy "$export_two" "$dir/again"
run_ok "and holds the same" cmp "$dir/copy" "$dir/again"
for _ in $(seq 100); do
	[ "$(holds)" -ne 0 ] || break
	sleep 0.1
done
expect "the hold of the daemon that died went with the next client" 0 "$(holds)"

# ---- Damage ----

pack=$(find "$dir/region/packs" -type f -size +8M | head -n 1)
printf '\x55\xaa\x55\xaa' | dd of="$pack" bs=1 seek=3000000 conv=notrunc status=none
/usr/bin/python3 - "$export_two" "$dir/copy" >"$dir/python" 2>&1 <<'PY'
import errno, nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
bad = 0
with open(sys.argv[2], "rb") as f:
    for at in range(0, 64 << 20, 512 << 10):
        want = f.read(512 << 10)
        try:
            assert h.pread(512 << 10, at) == want, at
        except nbd.Error as e:
            assert e.errnum == errno.EIO, e
            bad += 1
print("EIO", bad)
PY
expect "a damaged block reads as EIO, the others as they are" "EIO 1" "$(cat "$dir/python")"
qemu-io -r -f raw -c "sleep 60000" "$export_two" >/dev/null 2>&1 &
reader=$!
for _ in $(seq 100); do
	[ "$(holds)" -eq 0 ] || break
	sleep 0.1
done
end TERM
expect "it stops cleanly while somebody is connected" 0 $?
expect "... and holds nothing then" 0 "$(holds)"
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null || true
