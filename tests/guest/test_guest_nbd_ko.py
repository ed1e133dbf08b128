#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guest kernel's own NBD client, over TCP: simple replies and 512-byte blocks, where QEMU uses
structured replies, and several connections to one device."""
import os

import nbd

from guest import Daemon, Guest, MiB, expect, run_tests
from load import Load
from volumectl import Volumectl, disk_of


def allocated(disk):
    """Bytes that the server says are no hole."""
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.set_export_name(disk.export)
    handle.connect_unix(disk.socket_path)
    size = handle.get_size()
    total = at = 0

    def extents(_context, _offset, entries, _error):
        nonlocal total, at
        for length, flags in zip(entries[::2], entries[1::2]):
            total += 0 if flags & nbd.STATE_HOLE else length
            at += length
    while at < size:
        handle.block_status(size - at, at, extents)
    handle.shutdown()
    return total


def use(folder, connections):
    with Daemon(os.path.join(folder, "data"), "--nbd-listen", "127.0.0.1:0") as daemon:
        daemon.start()
        volumectl = Volumectl(daemon)
        attachment = volumectl.attach(volumectl.create("256MiB"), volumectl.register("guest"))
        with Guest(folder, network=True, cpus=2) as guest:
            guest.connect_nbd_ko(attachment["tcp_uri"], f"-C {connections}")
            guest.run("mkfs.ext4 -q /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt")
            load = Load(guest)
            load.expect_progress()
            load.stop()
            discard(guest, disk_of(attachment))
            guest.run("umount /mnt && e2fsck -fn /dev/nbd0")
            guest.run("nbd-client -d /dev/nbd0")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")


def discard(guest, disk):
    """What a removed file had filled is a hole again after fstrim."""
    # All other free space goes first.
    guest.run("fstrim /mnt && dd if=/dev/urandom of=/mnt/big bs=1M count=32 conv=fsync")
    before = allocated(disk)
    guest.run("rm /mnt/big && sync && fstrim /mnt")
    freed = before - allocated(disk)
    expect(freed >= 31 * MiB, f"fstrim freed {freed} bytes of {32 * MiB}")


def one_connection(folder):
    """mkfs, fsynced writes, fstrim and fsck work through nbd.ko."""
    use(folder, 1)


def two_connections(folder):
    """The same with a connection for each CPU: a flush on one covers the writes of both."""
    use(folder, 2)


run_tests(one_connection, two_connections)
