#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Real clients: what they write they read back, over the unix socket and over TCP.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
export PATH=$PATH:/sbin:/usr/sbin

start_daemon --volume-size 256MiB --nbd-listen 127.0.0.1:0 || { fail "the daemon starts"; exit 1; }
port=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/log" | head -n 1)
tcp="nbd://127.0.0.1:$port"
volume=$(grep -o 'vol-[0-9a-f]\{17\}' "$dir/log" | head -n 1)

# What nbdinfo tells of the export.
info=$(nbdinfo "$uri")
expect_match "nbdinfo: size" "export-size: 268435456" "$info"
expect_match "nbdinfo: can do what a guest needs" "can_multi_conn: true" "$info"
for feature in can_flush can_fua can_trim can_zero can_cache can_df can_fast_zero; do
	expect_match "nbdinfo: $feature" "$feature: true" "$info"
done
expect_match "nbdinfo: block sizes" "block_size_minimum: 512" "$info"
expect_match "nbdinfo --list names the volume" "$volume" "$(nbdinfo --list "$uri")"
run_ok "nbdinfo: the volume by its id" nbdinfo --size "nbd+unix:///$volume?socket=$socket"
run_ok "nbdinfo over TCP" nbdinfo --size "$tcp"
if nbdinfo --size "nbd+unix:///vol-00000000000000000?socket=$socket" >/dev/null 2>&1; then
	fail "an unknown export is refused"
else
	pass "an unknown export is refused"
fi

# A fresh volume is a hole of zeroes.
expect "nbdinfo --map of a fresh volume" "0 268435456 3 hole,zero" \
	"$(nbdinfo --map "$uri" | tr -s ' ' | sed 's/^ //')"

# nbdcopy in and out.
checksum() {
	sha256sum "$1" | cut -d' ' -f1
}
dd if=/dev/urandom of="$dir/random" bs=1M count=256 status=none
run_ok "nbdcopy in" nbdcopy "$dir/random" "$uri"
run_ok "nbdcopy out" nbdcopy "$uri" "$dir/back"
expect "nbdcopy: equal checksums" "$(checksum "$dir/random")" "$(checksum "$dir/back")"
run_ok "nbdcopy out over TCP" nbdcopy "$tcp" "$dir/back"
expect "nbdcopy over TCP: equal checksums" "$(checksum "$dir/random")" "$(checksum "$dir/back")"
run_ok "nbdcopy in, flushed" nbdcopy --flush "$dir/random" "$tcp"
rm "$dir/random" "$dir/back"

# A file system image through qemu-img, and back.
mkdir "$dir/tree"
cp -r "$PWD"/base "$PWD"/volumed "$dir/tree"
truncate -s 256M "$dir/image"
mkfs.ext4 -q -d "$dir/tree" "$dir/image"
run_ok "qemu-img convert in" qemu-img convert -n -f raw -O raw "$dir/image" "$uri"
run_ok "qemu-img compare" qemu-img compare -f raw -F raw "$dir/image" "$uri"
run_ok "qemu-img convert out" qemu-img convert -f raw -O raw "$uri" "$dir/image.back"
run_ok "the image is the same" cmp "$dir/image" "$dir/image.back"
run_ok "e2fsck of the image that came back" e2fsck -fn "$dir/image.back"
run_ok "qemu-img convert to qcow2" qemu-img convert -f raw -O qcow2 "$uri" "$dir/image.qcow2"
run_ok "qemu-img compare with the qcow2" \
	qemu-img compare -f raw -F qcow2 "$uri" "$dir/image.qcow2"
rm "$dir"/image*

# qemu-io: patterns at odd places, zeroes, discards, flushes.
run_ok "qemu-io: patterns" qemu-io -f raw \
	-c "write -P 0x11 0 1M" -c "write -P 0x22 512 512" -c "write -P 0x33 1M 33554432" \
	-c "write -P 0x44 4095k 3k" -c "flush" \
	-c "read -P 0x11 0 512" -c "read -P 0x22 512 512" -c "read -P 0x11 1k 1023k" \
	-c "read -P 0x33 1M 3071k" -c "read -P 0x44 4095k 3k" -c "read -P 0x33 4098k 1M" "$uri"
run_ok "qemu-io: zeroes and discard" qemu-io -f raw \
	-c "write -P 0x55 64M 4M" -c "write -z 65M 1M" -c "write -z -u 66M 1M" \
	-c "discard 67M 512k" \
	-c "read -P 0x55 64M 1M" -c "read -P 0 65M 1M" -c "read -P 0 66M 1M" \
	-c "read -P 0 67M 512k" -c "read -P 0x55 69120k 512" "$uri"
run_ok "qemu-io: many at once" qemu-io -f raw -t none \
	-c "aio_write -P 0x61 100M 64k" -c "aio_write -P 0x62 101M 64k" \
	-c "aio_write -P 0x63 102M 64k" -c "aio_write -P 0x64 103M 64k" -c "aio_flush" \
	-c "read -P 0x61 100M 64k" -c "read -P 0x62 101M 64k" \
	-c "read -P 0x63 102M 64k" -c "read -P 0x64 103M 64k" "$uri"
if qemu-io -f raw -c "write -P 0x66 256M 512" "$uri" >"$dir/out" 2>&1 && ! grep -q failed "$dir/out"
then
	fail "a write past the end fails" "$(cat "$dir/out")"
else
	pass "a write past the end fails"
fi

# fio's own NBD engine, with verification.
for size in 4k 64k 1m; do
	run_ok "fio: random $size writes, verified" fio --name=verify --ioengine=nbd --uri="$uri" \
		--rw=randwrite --bs=$size --iodepth=32 --size=64m --verify=crc32c \
		--verify_fatal=1 --do_verify=1 --verify_state_save=0 --randrepeat=0
done
run_ok "fio: mixed sizes over TCP" fio --name=verify --ioengine=nbd --uri="$tcp" \
	--rw=randrw --bsrange=512-128k --blockalign=512 --iodepth=16 --size=32m --verify=crc32c \
	--verify_fatal=1 --do_verify=1 --verify_state_save=0

# All of it is there after a restart, and the store is in order.
before=$(nbdcopy "$uri" - | sha256sum)
stop_daemon
expect "a clean stop" 0 $?
run_ok "volumed --check" "$volumed" --check "$dir/data"
start_daemon || fail "the daemon starts again"
expect "the same bytes after a restart" "$before" "$(nbdcopy "$uri" - | sha256sum)"
stop_daemon || fail "the second stop"
