#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Volumes outlive their instances: two volumes, ext4 and xfs, go from one guest to the next."""
import os

import nbd

from guest import Daemon, Guest, expect, run_tests
from volumectl import Volumectl, disk_of

FILE_SYSTEMS = {"ext4": ("/dev/vda", "e2fsck -fn"), "xfs": ("/dev/vdb", "xfs_repair -n")}
MAKE = "mkfs.ext4 -q /dev/vda && mkfs.xfs -q /dev/vdb"
MOUNT = "".join(f"mkdir -p /mnt/{name} && mount -t {name} {device} /mnt/{name} || exit 1\n"
                for name, (device, _) in FILE_SYSTEMS.items())
UMOUNT = "umount /mnt/*"
FSCK = " && ".join(f"{check} {device}" for device, check in FILE_SYSTEMS.values())
WRITE = """
cd /mnt
mkdir -p ext4/folder xfs/folder
for n in $(seq 12); do
	dd if=/dev/urandom of=ext4/folder/$n bs=40k count=$n
	cp ext4/folder/$n xfs/folder/$n
done
sha256sum ext4/folder/* xfs/folder/* >/tmp/sums
cp /tmp/sums ext4/sums
cp /tmp/sums xfs/sums
"""
VERIFY = "cd /mnt && sha256sum -c ext4/sums && sha256sum -c xfs/sums"
# Each file is fsynced by itself, and then more is written that is not.
WRITE_SYNCED = """
cd /mnt
for name in ext4 xfs; do
	for n in $(seq 10); do
		dd if=/dev/urandom of=$name/synced.$n bs=30k count=$n conv=fsync
	done
	sha256sum $name/synced.*
done
"""
WRITE_ON = """
cd /mnt
while :; do
	for name in ext4 xfs; do
		dd if=/dev/urandom of=$name/unsynced bs=1M count=4
	done
done >/dev/null 2>&1 &
sleep 1
"""


def expect_refused(disk):
    handle = nbd.NBD()
    handle.set_export_name(disk.export)
    try:
        handle.connect_unix(disk.socket_path)
    except nbd.Error:
        return
    raise AssertionError("the export of a detached attachment still lets clients in")


class Moves:
    """The volumes' way from instance to instance."""

    def __init__(self, daemon):
        self.volumectl = Volumectl(daemon)
        self.volumes = [self.volumectl.create("512MiB") for _ in FILE_SYSTEMS]
        self.disks = []

    def attach(self, name):
        instance = self.volumectl.register(name)
        self.disks = [disk_of(self.volumectl.attach(volume, instance))
                      for volume in self.volumes]
        return self.disks

    def detach(self, *options):
        for volume in self.volumes:
            self.volumectl("detach", volume, *options)
        for disk in self.disks:
            expect_refused(disk)


def life(folder):
    """What one instance wrote, the next one finds; the older attachment is of no use any more."""
    with Daemon(os.path.join(folder, "data")) as daemon:
        daemon.start()
        moves = Moves(daemon)
        with Guest(folder, *moves.attach("one"), name="one") as one:
            one.run(MAKE)
            one.run(MOUNT)
            one.run(WRITE)
            one.power_off()
        moves.detach()
        with Guest(folder, *moves.attach("two"), name="two") as two:
            two.run(FSCK)
            two.run(MOUNT)
            two.run(VERIFY)
            sums = two.run(WRITE_SYNCED + " 2>/dev/null")
            power_fails(two, daemon)
        daemon.start()
        moves.detach("--force")
        with Guest(folder, *moves.attach("three"), name="three") as three:
            recovered(three, sums)
        expect(daemon.stop() == 0, "the daemon's exit status")


def power_fails(guest, daemon):
    """The guest dies while it writes, and the daemon with it."""
    guest.run(WRITE_ON)
    guest.pull_plug()
    daemon.kill()


def recovered(guest, sums):
    """What was fsynced is there, and the journals put the rest in order."""
    guest.run(MOUNT)
    guest.run(VERIFY)
    lines = [line for line in sums.splitlines() if "synced." in line]
    expect(len(lines) == 20, f"checksums of 20 files: {sums}")
    guest.run("cd /mnt && sha256sum -c <<END\n" + "\n".join(lines) + "\nEND\n")
    guest.run(f"cd / && {UMOUNT} && {FSCK}")
    guest.power_off()


run_tests(life)
