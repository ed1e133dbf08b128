#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A volume grows while a guest writes to it. NBD has no word for that: QEMU learns the new size
from a new connection, and block_resize tells the guest; an ioctl tells the kernel's own client."""
import os

from guest import Daemon, Guest, MiB, expect, run_tests
from load import Load
from volumectl import Volumectl, disk_of

OLD = 64 * MiB
NEW = 192 * MiB
PIECE = 8 * MiB


def by_new_connection(guest, attachment, _daemon):
    """QEMU puts a second connection in the place of the first one: I/O just goes on."""
    disk = disk_of(attachment)
    guest.qmp("blockdev-add", **disk.node("nbd0-grown"))
    guest.qmp("blockdev-reopen", options=[disk.form(0) | {"file": "nbd0-grown"}])
    guest.qmp("blockdev-del", **{"node-name": "nbd0"})
    guest.qmp("block_resize", **{"node-name": "format0", "size": NEW})


def by_reconnect(guest, _attachment, daemon):
    """A restart of the daemon makes QEMU connect anew; that it has done so, the I/O shows."""
    expect(daemon.stop() == 0, "the daemon's exit status")
    daemon.start()
    guest.run("dd if=/dev/urandom of=/mnt/probe bs=4k count=1 conv=fsync")
    guest.qmp("block_resize", **{"node-name": "format0", "size": NEW})


def by_nbd_resize(guest, _attachment, _daemon):
    """The kernel's client is told, and keeps its connection: the server must serve all of the
    volume as it is now, on a connection whose handshake gave the old size."""
    guest.run(f"nbd_resize /dev/nbd0 {NEW}")


def grow(folder, learn, kernel_client=False):
    with Daemon(os.path.join(folder, "data"), "--nbd-listen", "127.0.0.1:0") as daemon:
        daemon.start()
        volumectl = Volumectl(daemon)
        volume = volumectl.create(str(OLD))
        attachment = volumectl.attach(volume, volumectl.register("guest"))
        disks = [] if kernel_client else [disk_of(attachment)]
        with Guest(folder, *disks, network=kernel_client) as guest:
            device = "/dev/vda"
            if kernel_client:
                device = "/dev/nbd0"
                guest.connect_nbd_ko(attachment["tcp_uri"], "-nonetlink")
            guest.run(f"mkfs.ext4 -q {device} && mount -t ext4 {device} /mnt")
            load = Load(guest)
            load.expect_progress()
            volumectl("volume", "resize", volume, "--size", str(NEW))
            learn(guest, attachment, daemon)
            expect(guest.run(f"blockdev --getsize64 {device}") == str(NEW), "the guest's size")
            guest.run(f"resize2fs {device}")
            load.expect_progress()
            load.stop()
            fill(guest)
            guest.run(f"umount /mnt && e2fsck -fn {device}")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


def fill(guest):
    """More than the old size had room for, read back from the disk. By checksums: emulated,
    busybox's cmp does 2 MB/s."""
    guest.run(f"""
        dd if=/dev/urandom of=/tmp/piece bs={PIECE} count=1 2>/dev/null
        for n in $(seq {OLD // PIECE + 1}); do
            cp /tmp/piece /mnt/piece.$n || exit 1
        done
        sync && echo 3 >/proc/sys/vm/drop_caches
        sum=$(md5sum </tmp/piece)
        for piece in /mnt/piece.*; do
            [ "$(md5sum <$piece)" = "$sum" ] || {{ echo $piece differs; exit 1; }}
        done""")


def grow_by_new_connection(folder):
    """The guest sees the new size at once, resize2fs works online, fsck is clean."""
    grow(folder, by_new_connection)


def grow_by_reconnect(folder):
    """The same where QEMU has learnt the size by reconnecting."""
    grow(folder, by_reconnect)


def grow_nbd_ko(folder):
    """The same with the guest kernel's own client."""
    grow(folder, by_nbd_resize, kernel_client=True)


run_tests(grow_by_new_connection, grow_by_reconnect, grow_nbd_ko)
