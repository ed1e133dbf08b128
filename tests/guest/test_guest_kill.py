#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""volumed restarts, killed or stopped, while a guest writes: the guest notices no more than a
pause. QEMU reconnects by itself (reconnect-delay). GUEST_KILLS (2) says how often it restarts."""
import os
import random
import socket
import time

from guest import Daemon, Disk, Guest, expect, run_tests
from load import Load

KILLS = int(os.environ.get("GUEST_KILLS", "20" if os.environ.get("SOAK") else "2"))
SEED = int(os.environ.get("SEED", "1"))


class HeldDaemon(Daemon):
    """Its listening socket is held by someone else, as a service manager does it: who connects
    while the daemon is away waits, and is not refused."""

    def __init__(self, data, *args):
        super().__init__(data, *args)
        os.mkdir(data, 0o700)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(16)
        hand_over = f"exec 3<&{self.listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\""
        self.command = ["bash", "-c", hand_over, "-", *self.command]

    def spawn(self, **kwargs):
        super().spawn(pass_fds=[self.listener.fileno()], **kwargs)

    def __exit__(self, *args):
        super().__exit__(*args)
        self.listener.close()


def restart_under_load(folder, daemon, end):
    """`end` ends the daemon, again and again, while the guest writes and fsyncs."""
    choose = random.Random(SEED)
    with daemon:
        daemon.start()
        with Guest(folder, Disk(daemon.socket)) as guest:
            guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt")
            load = Load(guest)
            for _ in range(KILLS):
                load.expect_progress()
                end()
                time.sleep(choose.uniform(1, 3))
                daemon.start()
            load.expect_progress()
            load.stop()
            guest.run("umount /mnt && e2fsck -fn /dev/vda")
            guest.power_off()
        expect(daemon.stop() == 0, "the daemon's exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check: {text}")


def kill_socket_held(folder):
    """SIGKILL, the socket held: no I/O error in the guest, all that was fsynced is there."""
    daemon = HeldDaemon(os.path.join(folder, "data"), "--volume-size", "256MiB")
    restart_under_load(folder, daemon, daemon.kill)


def kill_socket_gone(folder):
    """SIGKILL, and QEMU is refused until the next start: no I/O error in the guest."""
    daemon = Daemon(os.path.join(folder, "data"), "--volume-size", "256MiB")
    restart_under_load(folder, daemon, daemon.kill)


def stop_under_load(folder):
    """SIGTERM: a clean stop answers what it got and closes; QEMU sees no error and waits."""
    daemon = HeldDaemon(os.path.join(folder, "data"), "--volume-size", "256MiB")

    def stop():
        expect(daemon.stop() == 0, f"exit status of the stop: {daemon.output()}")
    restart_under_load(folder, daemon, stop)


run_tests(kill_socket_held, kill_socket_gone, stop_under_load)
