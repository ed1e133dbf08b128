#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guest kernel's own NBD client, over TCP: simple replies and 512-byte blocks, where QEMU uses
structured replies, and several connections to one device."""
import os
import re

import nbd

from guest import Daemon, Guest, MiB, expect, run_tests
from load import Load

HOST = "10.0.2.2"  # as QEMU's network shows the host to the guest


def allocated(daemon):
    """Bytes that the server says are no hole."""
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_unix(daemon.socket)
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
    with Daemon(os.path.join(folder, "data"), "--volume-size", "256MiB",
                "--nbd-listen", "127.0.0.1:0") as daemon:
        daemon.start()
        port = re.search(r"127\.0\.0\.1:(\d+)", daemon.output())[1]
        with Guest(folder, network=True, cpus=2) as guest:
            guest.run("modprobe virtio_net && ip link set eth0 up && ip addr add 10.0.2.15/24 dev "
                      "eth0 && modprobe nbd nbds_max=1 && "
                      f"nbd-client {HOST} {port} -N '' -C {connections} /dev/nbd0")
            guest.run("mkfs.ext4 -q /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt")
            load = Load(guest)
            load.expect_progress()
            load.stop()
            discard(guest, daemon)
            guest.run("umount /mnt && e2fsck -fn /dev/nbd0")
            guest.run("nbd-client -d /dev/nbd0")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")


def discard(guest, daemon):
    """What a removed file had filled is a hole again after fstrim, and the other files stay."""
    # Of all other free space the blocks went before.
    guest.run("fstrim /mnt && dd if=/dev/urandom of=/mnt/big bs=1M count=32 conv=fsync")
    before = allocated(daemon)
    guest.run("rm /mnt/big && sync && fstrim /mnt")
    freed = before - allocated(daemon)
    expect(freed >= 31 * MiB, f"fstrim freed {freed} bytes of {32 * MiB}")


def one_connection(folder):
    """mkfs, fsynced writes, fstrim and fsck work through nbd.ko."""
    use(folder, 1)


def two_connections(folder):
    """The same with a connection for each CPU: a flush on one covers the writes of both."""
    use(folder, 2)


run_tests(one_connection, two_connections)
