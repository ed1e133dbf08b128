#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a guest's disk while it writes: what they hold is what a power cut would have left, in
any zone of the region."""
import json
import os
import time

from guest import PATIENCE, Daemon, Guest, expect, run_tests
from volumectl import Volumectl, disk_of

SNAPSHOTS = 3
# Each file says all over which turn it is of: lines of 8 bytes, so that a page has whole ones. Of a
# turn, a new file and one of eight that are overwritten in place are fsynced; then it counts. Beside
# it others come and go without fsync, for journal and log to have something under way.
START = """
mkdir /mnt/new /mnt/over /mnt/noise
cat >/tmp/writer <<'END'
turn=0
while [ ! -e /run/stop ]; do
	turn=$((turn + 1))
	echo $turn >>/run/begun
	for file in new/$turn over/$((turn % 8)); do
		yes $((1000000 + turn)) | head -c 65536 |
			dd of=/mnt/$file bs=16k conv=notrunc,fsync 2>/run/dd || {
			cp /run/dd /run/failed
			exit
		}
	done
	echo $turn >>/run/synced
done
touch /run/done
END
cat >/tmp/noise <<'END'
n=0
while [ ! -e /run/stop ]; do
	n=$((n + 1))
	dd if=/tmp/pool of=/mnt/noise/$((n % 16)) bs=64k 2>/dev/null
	rm -f /mnt/noise/$(((n + 8) % 16))
done
END
dd if=/dev/urandom of=/tmp/pool bs=64k count=16 2>/dev/null
sh /tmp/writer &
sh /tmp/noise &
"""
WAIT = """
for second in $(seq %(patience)d); do
	[ ! -e /run/failed ] || { cat /run/failed; exit 1; }
	[ "$(tail -n 1 /run/synced)" -ge %(turn)d ] 2>/dev/null && exit 0
	sleep 1
done
echo "no turn gets through"
exit 1
"""
STOP = """
touch /run/stop
while [ ! -e /run/done ]; do
	[ ! -e /run/failed ] || { cat /run/failed; exit 1; }
	sleep 0.1
done
"""
# All turns up to %(synced)d are there, and none behind %(begun)d has left a trace.
VERIFY = """
cd %(folder)s || exit 1
for turn in $(seq %(synced)d); do
	yes $((1000000 + turn)) | head -c 65536 | cmp - new/$turn || exit 1
done
for file in new/*; do
	[ ${file#new/} -le %(begun)d ] || { echo "$file is from after the snapshot"; exit 1; }
done
for n in 0 1 2 3 4 5 6 7; do
	awk -v n=$n -v synced=%(synced)d -v begun=%(begun)d '
		BEGIN { oldest = synced - (synced - n) %% 8 }
		{ turn = $0 - 1000000 }
		length($0) != 7 || turn < oldest || turn > begun || turn %% 8 != n {
			print "over/" n " has a line " $0
			exit bad = 1
		}
		END { if (!bad && NR != 8192) { print "over/" n " has " NR " lines"; exit 1 } }
	' over/$n || exit 1
done
"""
# The disk was never unmounted: its journal is replayed, and nothing is left for e2fsck to mend.
MOUNT = """
mount -t ext4 %(device)s /mnt && umount /mnt && e2fsck -fn %(device)s &&
	mount -t ext4 -o ro %(device)s /mnt
"""


class Point:
    """A snapshot, and what of the writer's turns it must and may hold."""

    def __init__(self, snapshot, synced, begun):
        self.snapshot = snapshot
        self.turns = {"synced": synced, "begun": begun}

    def verify(self, guest, folder):
        guest.run(VERIFY % dict(self.turns, folder=folder))


class Writer:
    """The guest that is snapshot: its system and its files are on /dev/vda."""

    def __init__(self, guest, volumectl, volume):
        self.guest = guest
        self.volumectl = volumectl
        self.volume = volume
        guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt")
        guest.install("/mnt")
        guest.run("sync")
        guest.run(START)

    def wait(self, turn):
        self.guest.run(WAIT % {"turn": turn, "patience": PATIENCE - 20})

    def last(self, what):
        return int(self.guest.run(f"tail -n 1 /run/{what}"))

    def snapshot(self):
        """Takes one, and goes on until what is behind it is on the disk, too."""
        synced = self.last("synced")
        snapshot = self.volumectl("snapshot", "create", self.volume, "--quiet")
        begun = self.last("begun")
        self.wait(begun + 8)
        return Point(snapshot, synced, begun)

    def stop(self):
        """Its own disk holds all of its turns."""
        self.guest.run(STOP)
        self.guest.run("echo 3 >/proc/sys/vm/drop_caches")
        turns = self.last("synced")
        Point(None, turns, turns).verify(self.guest, "/mnt")


def wait_completed(volumectl, snapshot):
    deadline = time.monotonic() + PATIENCE
    while json.loads(volumectl("snapshot", "show", snapshot, "--json"))["state"] != "completed":
        expect(time.monotonic() < deadline, f"{snapshot} is not completed after {PATIENCE} s")
        time.sleep(1)


def take(folder, daemon):
    """A guest in one zone writes, and snapshots of its disk are taken meanwhile."""
    volumectl = Volumectl(daemon)
    volume = volumectl.create("512MiB")
    disk = disk_of(volumectl.attach(volume, volumectl.register("one")))
    with Guest(folder, disk, name="one") as guest:
        writer = Writer(guest, volumectl, volume)
        writer.wait(10)
        points = [writer.snapshot() for _ in range(SNAPSHOTS)]
        writer.stop()
        guest.power_off()
    for point in points:
        wait_completed(volumectl, point.snapshot)
    return points


def restore(folder, daemon, points):
    """In the other zone one boots from the newest, and has the others as disks beside it. They are
    used while most of each is still in the repository."""
    volumectl = Volumectl(daemon)
    instance = volumectl.register("two")
    points = [points[-1], *points[:-1]]
    disks = []
    for point in points:
        volume = volumectl("volume", "create", "--snapshot", point.snapshot,
                           "--initialization-rate", "2MiB", "--quiet")
        disks.append(disk_of(volumectl.attach(volume, instance)))
    with Guest(folder, *disks, name="two", boot="/dev/vda") as guest:
        root = guest.run("stat -c %t:%T /dev/vda; mountpoint -d /; cat /proc/mounts")
        expect(" / ext4 " in root, f"its root is on the volume: {root}")
        points[0].verify(guest, "/")
        guest.run("yes | head -c 1048576 >/mine && sync")
        for letter, point in zip("bcdefgh", points[1:]):
            guest.run(MOUNT % {"device": f"/dev/vd{letter}"})
            point.verify(guest, "/mnt")
            guest.run("umount /mnt")
        guest.power_off()


def boot_in_other_zone(folder):
    """From a snapshot of a disk that is written to, a guest in the other zone boots: its file system
    is clean once its journal is replayed, all that was fsynced before is there, nothing from after."""
    region = os.path.join(folder, "region")
    zones = [Daemon(os.path.join(folder, name), "--zone", f"zone-{name}", "--zone-number", number,
                    "--volume-size", "none", "--snapshots", region)
             for name, number in (("a", "1"), ("b", "2"))]
    with zones[0], zones[1]:
        for daemon in zones:
            daemon.start()
        points = take(folder, zones[0])
        restore(folder, zones[1], points)
        for daemon in zones:
            expect(daemon.stop() == 0, "the daemon's exit status")
    for daemon in zones:
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


run_tests(boot_in_other_zone)
