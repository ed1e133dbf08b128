#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A store that is full under a running guest: the guest pauses, and nothing is lost. Space that
another volume gives back lets it go on; what the guest deletes and trims serves it again."""
import os
import time

import nbd

from guest import PATIENCE, Daemon, Guest, MiB, expect, run_tests
from volumectl import Volumectl, disk_of

STORE = "256MiB"
FILLER = 96 * MiB
MAKE = "mkfs.ext4 -q /dev/vda && mkdir -p /mnt/ext4 && mount -t ext4 /dev/vda /mnt/ext4"
PRECIOUS = """
cd /mnt/ext4
dd if=/dev/urandom of=/tmp/noise bs=1M count=4
for n in $(seq 4); do dd if=/dev/urandom of=precious.$n bs=1M count=1; done
sha256sum precious.* >sums
sync
"""
# More than there is room for. Each file begins with its number.
FILL = """
cd /mnt/ext4
for n in $(seq 36); do
	{ echo $n; cat /tmp/noise; } >big.$n && sync || exit 1
	sha256sum big.$n >>sums
done
sync
"""
VERIFY = "cd /mnt/ext4 && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c sums"
TRIM = "cd /mnt/ext4 && rm big.* && grep precious sums >s && mv s sums && sync && fstrim ."
FSCK = "cd / && umount /mnt/ext4 && e2fsck -fn /dev/vda"


def fill_another(volumectl):
    """A volume whose blocks are all written. Returns it."""
    volume = volumectl.create(str(FILLER))
    disk = disk_of(volumectl.attach(volume, volumectl.register("filler")))
    handle = nbd.NBD()
    handle.set_export_name(disk.export)
    handle.connect_unix(disk.socket_path)
    for at in range(0, FILLER, MiB):
        handle.pwrite(os.urandom(MiB), at)
    handle.shutdown()
    volumectl("detach", volume)
    return volume


def is_paused(guest):
    return guest.qmp("query-status")["status"] == "io-error"


def wait_until_paused(guest):
    deadline = time.monotonic() + PATIENCE
    while not is_paused(guest):
        expect(time.monotonic() < deadline, "the store never got full")
        time.sleep(0.1)


def go_on(guest):
    """Whenever it pauses it is told to go on, as whoever watches over it would. Returns what its
    script did."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_paused(guest):
            guest.qmp("cont")
        try:
            return guest.finish(1)
        except AssertionError:
            continue
    raise AssertionError("the guest never went on")


def full(folder):
    """E6: a full store is a pause to the guest, never corruption."""
    with Daemon(os.path.join(folder, "data"), "--store-max-size", STORE) as daemon:
        daemon.start()
        volumectl = Volumectl(daemon)
        filler = fill_another(volumectl)
        volume = volumectl.create("256MiB")
        disk = disk_of(volumectl.attach(volume, volumectl.register("guest")))
        with Guest(folder, disk) as guest:
            guest.run(MAKE)
            guest.run(PRECIOUS)
            guest.start(FILL)
            wait_until_paused(guest)
            volumectl("volume", "delete", filler)
            status, output = go_on(guest)
            expect(status == 0, f"filling the file system: {output}")
            guest.run(VERIFY)
            guest.run(TRIM)
            guest.start(FILL)
            status, output = go_on(guest)
            expect(status == 0, f"filling it once more: {output}")
            guest.run(VERIFY)
            guest.run(FSCK)
            guest.power_off()
        volumectl("detach", volume)
        expect(daemon.stop() == 0, "the daemon's exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {status}: {text}")


run_tests(full)
