#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A volume grows while a guest writes to it. An NBD connection has no word for that: QEMU learns
the new size from a new connection, and block_resize tells the guest."""
import os

from guest import Daemon, Guest, MiB, expect, run_tests
from load import Load
from volumectl import Volumectl

OLD = 128 * MiB
NEW = 384 * MiB


def by_new_connection(guest, disk, _daemon):
    """QEMU puts a second connection in the place of the first one: I/O just goes on."""
    guest.qmp("blockdev-add", **disk.node("nbd0-grown"))
    guest.qmp("blockdev-reopen", options=[disk.form(0) | {"file": "nbd0-grown"}])
    guest.qmp("blockdev-del", **{"node-name": "nbd0"})


def by_reconnect(_guest, _disk, daemon):
    """A restart of the daemon makes QEMU connect anew."""
    expect(daemon.stop() == 0, "the daemon's exit status")
    daemon.start()


def grow(folder, learn):
    with Daemon(os.path.join(folder, "data")) as daemon:
        daemon.start()
        volumectl = Volumectl(daemon)
        volume = volumectl.create(str(OLD))
        disk = volumectl.attach(volume, volumectl.register("guest"))
        with Guest(folder, disk) as guest:
            guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt")
            load = Load(guest)
            load.expect_progress()
            volumectl("volume", "resize", volume, "--size", str(NEW))
            learn(guest, disk, daemon)
            load.expect_progress()
            guest.qmp("block_resize", **{"node-name": "format0", "size": NEW})
            expect(guest.run("blockdev --getsize64 /dev/vda") == str(NEW), "the guest's size")
            guest.run("resize2fs /dev/vda")
            load.expect_progress()
            fill(guest)
            load.stop()
            guest.run("umount /mnt && e2fsck -fn /dev/vda")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


def fill(guest):
    """More than the old size fits, and is read back."""
    guest.run(f"""
        dd if=/dev/urandom of=/tmp/piece bs=1M count=16 2>/dev/null
        for n in $(seq {OLD // MiB // 16 + 2}); do
            cp /tmp/piece /mnt/piece.$n || exit 1
        done
        sync && echo 3 >/proc/sys/vm/drop_caches
        for piece in /mnt/piece.*; do
            cmp /tmp/piece $piece || exit 1
        done""")


def grow_by_new_connection(folder):
    """The guest sees the new size at once, resize2fs works online, fsck is clean."""
    grow(folder, by_new_connection)


def grow_by_reconnect(folder):
    """The same where QEMU has only reconnect-delay to learn it by."""
    grow(folder, by_reconnect)


run_tests(grow_by_new_connection, grow_by_reconnect)
