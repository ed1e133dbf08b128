#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make run`, as somebody new types it: it serves a disk, each line that it tells them to paste works
# as it is printed, Ctrl-C stops it, and the next one finds all data again.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
export PATH=$PATH:/sbin:/usr/sbin
data="$dir/my data" # whoever has a space in a path pastes the same lines
run=
# The daemon is a grandchild.
trap 'status=$?; [ -z "$run" ] || kill -KILL -- "-$run"; (exit $status); finish' EXIT

# run LOG: make run, in a process group of its own, as a terminal has it. It sets $run.
run() {
	# Without the flags and the job server of a make that runs the tests.
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL setsid make --no-print-directory MODE="${MODE:-release}" \
		NO_SETUP=1 run DATA_DIR="$data" NBD_LISTEN=127.0.0.1:0 ARGS='--volume-size 1GiB' \
		>"$1" 2>&1 </dev/null &
	run=$!
	for _ in $(seq 1200); do
		grep -q 'Ctrl-C stops' "$1" && return 0
		kill -0 "$run" 2>/dev/null || break
		sleep 0.1
	done
	return 1
}

# Ctrl-C: the terminal signals the whole group.
interrupt() {
	kill -INT -- "-$run"
	wait "$run"
	run=
}

# hint WORDS: the line that begins with them, with the lines that it goes on in.
hint() {
	sed -n "/^  $1/{:more;/\\\\\$/{N;b more;};s/^  //;p;q;}" "$dir/first"
}

# paste NAME WORDS: runs that line in a shell, in a folder of its own.
paste() {
	local line

	line=$(hint "$2")
	if [ -z "$line" ]; then
		fail "$1: the hint is printed" "$(cat "$dir/first")"
		return
	fi
	run_ok "$1: as it was printed" env -C "$dir/shell" timeout 120 bash -c "$line"
}

mkdir "$dir/shell"
if ! run "$dir/first"; then
	fail "make run serves" "$(cat "$dir/first")"
	exit 1
fi
pass "make run serves"
paste "nbdinfo" "nbdinfo"
paste "an image" "truncate"
paste "nbdcopy in" "nbdcopy image.raw"
paste "nbdcopy out" "nbdcopy .* copy.raw"
run_ok "nbdcopy: equal bytes" cmp -n 268435456 "$dir/shell/image.raw" "$dir/shell/copy.raw"
paste "qemu-img convert in" "qemu-img convert -n"
paste "qemu-img convert out" "qemu-img convert -f raw -O qcow2"
paste "fio with verify" "fio"
expect_match "the TCP address is named" "nbd://127.0.0.1:[0-9]+/" "$(cat "$dir/first")"

# The guest need not boot: it has found its disk when it is connected.
if command -v qemu-system-x86_64 >/dev/null; then
	before=$(grep -c "connected to export" "$dir/first")
	bash -c "exec $(hint qemu-system) -S" >"$dir/qemu" 2>&1 </dev/null &
	qemu=$!
	for _ in $(seq 600); do
		[ "$(grep -c "connected to export" "$dir/first")" -gt "$before" ] && break
		kill -0 $qemu 2>/dev/null || break
		sleep 0.1
	done
	expect "qemu-system-x86_64 opens the disk: as it was printed" $((before + 1)) \
		"$(grep -c "connected to export" "$dir/first")"
	kill $qemu 2>/dev/null
	wait $qemu 2>/dev/null
else
	skip "qemu-system-x86_64 opens the disk" "it is not installed"
fi
script=$(sed -n '/^More disks:/,/^$/{/^  /p}' "$dir/first")
run_ok "the volumectl lines: as they were printed" bash -e -c "${script//--help/--help >\/dev/null}"

uri=$(hint nbdinfo)
uri=${uri#nbdinfo \'}
uri=${uri%\'}
before=$(nbdcopy "$uri" - | sha256sum)
interrupt
expect_match "Ctrl-C stops it cleanly" "stopping" "$(cat "$dir/first")"
run_ok "Ctrl-C stops it cleanly: the store is in order" "$volumed" --check "$data"
run "$dir/second" || fail "the second make run serves" "$(cat "$dir/second")"
expect "the second run finds all data" "$before" "$(nbdcopy "$uri" - | sha256sum)"
interrupt
