#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every common file system can be made on a fresh volume, used and checked."""
import os

from guest import Daemon, Guest, expect, run_tests
from volumectl import Volumectl, disk_of

# Name: how to make it, and how to check it.
FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4 -q", "e2fsck -fn"),
    "xfs": ("mkfs.xfs -q", "xfs_repair -n"),
    "btrfs": ("mkfs.btrfs -q", "btrfs check"),
    "vfat": ("mkfs.vfat", "fsck.vfat -n"),
}
USE = """
set -e
mount -t {name} {device} /mnt
mkdir /mnt/folder
for n in 1 2 3 4 5 6 7 8; do
	{{ echo $n; cat /tmp/pool; }} >/mnt/folder/$n
done
rm /mnt/folder/3
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount -t {name} {device} /mnt
for n in 1 2 4 5 6 7 8; do
	{{ echo $n; cat /tmp/pool; }} | cmp - /mnt/folder/$n
done
[ ! -e /mnt/folder/3 ]
{trim}
umount /mnt
"""


def mkfs_on_fresh_volumes(folder):
    """mkfs, mount, write, read back, fstrim and fsck, each on a volume that nobody has touched."""
    with Daemon(os.path.join(folder, "data")) as daemon:
        daemon.start()
        volumectl = Volumectl(daemon)
        instance = volumectl.register("guest")
        disks = [disk_of(volumectl.attach(volumectl.create("512MiB"), instance))
                 for _ in FILE_SYSTEMS]
        with Guest(folder, *disks) as guest:
            guest.run("dd if=/dev/urandom of=/tmp/pool bs=64k count=16")
            for (name, (make, check)), letter in zip(FILE_SYSTEMS.items(), "abcd"):
                device = "/dev/vd" + letter
                guest.run(f"{make} {device}")
                trim = "" if name == "vfat" else "fstrim /mnt"
                guest.run(USE.format(name=name, device=device, trim=trim))
                guest.run(f"{check} {device}")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


run_tests(mkfs_on_fresh_volumes)
