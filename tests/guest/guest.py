# SPDX-License-Identifier: Apache-2.0
"""A Linux guest for the tests, in QEMU without KVM: boots in seconds, runs what it is told, and its
disks are volumes over NBD."""
import base64
import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import image

sys.path.insert(1, os.path.join(image.ROOT, "tests/e2e"))
import lib  # noqa: E402
from lib import Daemon, MiB, expect  # noqa: E402

# How long anything in a guest may take: emulated, on a busy machine. No test measures time.
PATIENCE = 120
# What QEMU's network shows the guest as the host's loopback interface.
HOST = "10.0.2.2"

# What a guest's kernel says when a disk or a file system is in trouble.
TROUBLE = re.compile(r"""
    I/O\ error | EXT4-fs\ (error|warning) | JBD2:.*error | XFS.*(error|orruption)
    | BTRFS\ (error|critical) | FAT-fs.*error | [Rr]emounting\ filesystem\ read-only
    | block\ nbd\d+:\ (?!NBD_DISCONNECT | shutting\ down | Disconnected\ due\ to\ user)
    | blocked\ for\ more\ than | BUG: | Oops | Call\ Trace | Out\ of\ memory""",
                     re.VERBOSE)


class Disk:
    """A volume as a virtio disk, through QEMU's own NBD client."""

    def __init__(self, socket_path, export="", reconnect_delay=30):
        self.socket_path = socket_path
        self.export = export
        self.reconnect_delay = reconnect_delay

    def node(self, name):
        return {"driver": "nbd", "node-name": name, "export": self.export, "discard": "unmap",
                "server": {"type": "unix", "path": self.socket_path},
                "reconnect-delay": self.reconnect_delay}

    def form(self, number):
        return {"driver": "raw", "node-name": f"format{number}", "file": f"nbd{number}",
                "discard": "unmap"}

    def arguments(self, number):
        """/dev/vda is disk 0: the device disk0 on the node format0 on the node nbd0."""
        return ["-blockdev", json.dumps(self.node(f"nbd{number}")),
                "-blockdev", json.dumps(self.form(number)),
                "-device", f"virtio-blk-pci,drive=format{number},id=disk{number}"]


class GuestError(AssertionError):
    """A command failed in the guest, or the guest is gone."""


class Guest:
    """A running guest. Used as a context, it loses its power at the end. With `boot`, as /dev/vda,
    its root file system is on that disk (install() puts it there), clean by e2fsck once its journal
    is replayed."""

    def __init__(self, folder, *disks, network=False, cpus=1, name="guest", boot=None):
        kernel, initramfs = image.ready()
        self.name = name
        self.console_path = os.path.join(folder, f"{name}.console.log")
        self.begin = time.monotonic()
        self.shell, shell = socket.socketpair()
        self.monitor, monitor = socket.socketpair()
        arguments = [
            "qemu-system-x86_64", "-machine", "q35,usb=off,vmport=off,smbus=off",
            "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", str(cpus), "-m", "512",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initramfs,
            "-append", "console=ttyS0 loglevel=5 panic=-1 tsc=reliable no_timer_check nokaslr "
                       "mitigations=off random.trust_cpu=on audit=0 cryptomgr.notests" +
                       (f" rootdisk={boot}" if boot else ""),
            "-serial", f"file:{self.console_path}",
            "-chardev", f"socket,id=shell,fd={shell.fileno()}", "-serial", "chardev:shell",
            "-chardev", f"socket,id=monitor,fd={monitor.fileno()}",
            "-mon", "chardev=monitor,mode=control"]
        if network:
            arguments += ["-netdev", "user,id=net0", "-device",
                          "virtio-net-pci,netdev=net0,romfile="]
        for number, disk in enumerate(disks):
            arguments += disk.arguments(number)
        with open(os.path.join(folder, f"{name}.qemu.log"), "w") as log:
            self.qemu = subprocess.Popen(
                arguments, pass_fds=[shell.fileno(), monitor.fileno()], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=dict(os.environ, PATH=image.SEARCH_PATH))
        shell.close()
        monitor.close()
        self.replies = b""
        self.status = None
        self.events = []
        try:
            self.reply(r"ready\x01\n", PATIENCE)
            self.qmp_replies = self.monitor.makefile("r")
            json.loads(self.qmp_replies.readline())  # the greeting
            self.qmp("qmp_capabilities")
        except BaseException:
            self.pull_plug()
            raise

    def reply(self, pattern, patience):
        """Waits until the guest has sent what matches. Returns the match and what was before it."""
        deadline = time.monotonic() + patience
        while True:
            match = re.search(pattern.encode(), self.replies)
            if match:
                before = self.replies[:match.start()]
                self.replies = self.replies[match.end():]
                return match, before.decode(errors="replace")
            left = deadline - time.monotonic()
            if not select.select([self.shell], [], [], max(left, 0))[0]:
                raise GuestError(f"{self.name}: no answer in {patience} s; it said: "
                                 f"{self.replies.decode(errors='replace')}")
            received = self.shell.recv(65536)
            if not received:
                with open(self.console_path, errors="replace") as console:
                    raise GuestError(f"{self.name}: QEMU has ended; the guest said: "
                                     f"{self.replies.decode(errors='replace')}, and its console: "
                                     f"{console.read()[-2000:]}")
            self.replies += received

    def start(self, script):
        """Sends a script, and does not wait: finish() does. One at a time."""
        self.shell.sendall(base64.b64encode(script.encode()) + b"\n")

    def finish(self, patience=PATIENCE):
        """Waits for the script that start() sent. Returns its exit status and output."""
        match, output = self.reply(r"\x01(\d+)\n", patience)
        return int(match[1]), output

    def run(self, script, patience=PATIENCE):
        """Runs a script in the guest, which must succeed. Returns its output."""
        self.start(script)
        status, output = self.finish(patience)
        if status:
            raise GuestError(f"{self.name}: exit status {status} of: {script}\n{output}")
        return output.strip()

    def install(self, folder):
        """Puts the guest's own system into a folder of its, so that others can boot from it."""
        self.run(f"cd / && cp -a bin etc init lib* sbin {folder} && "
                 f"cd {folder} && mkdir -p dev mnt proc run sys tmp")

    def connect_nbd_ko(self, uri, options=""):
        """Makes /dev/nbd0 of an export: the guest's kernel is the client, over TCP. The guest has
        to have the network."""
        tcp = urllib.parse.urlsplit(uri)
        name = urllib.parse.unquote(tcp.path[1:])
        self.run("modprobe virtio_net && ip link set eth0 up && "
                 "ip addr add 10.0.2.15/24 dev eth0 && modprobe nbd nbds_max=1")
        self.run(f"nbd-client {HOST} {tcp.port} -N '{name}' {options} /dev/nbd0")

    def qmp(self, command, **arguments):
        """Tells QEMU something. Its events are kept."""
        message = {"execute": command, "arguments": arguments}
        self.monitor.sendall(json.dumps(message).encode())
        while True:
            answer = json.loads(self.qmp_replies.readline())
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise GuestError(f"{self.name}: {command}: {answer['error']['desc']}")
            else:
                return answer["return"]

    def kernel_log(self):
        return self.run("dmesg")

    def expect_no_trouble(self):
        for line in self.kernel_log().splitlines():
            expect(not TROUBLE.search(line), f"{self.name}'s kernel complains: {line}")

    def power_off(self):
        """As its user would. What was mounted must be unmountable."""
        self.run("cd / && sync && for mount in $(sed -n 's,^/dev/[^ ]* \\([^ ]*\\) .*,\\1,p' "
                 "/proc/mounts); do [ $mount = / ] && mount -o remount,ro / || umount $mount || "
                 "exit 1; done")
        self.expect_no_trouble()
        self.start("poweroff -f")
        expect(self.qemu.wait(timeout=PATIENCE) == 0, f"{self.name}: QEMU's exit status")

    def pull_plug(self):
        """Ends it at once, with all that its kernel has not written."""
        self.qemu.send_signal(signal.SIGKILL)
        self.qemu.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.qemu.poll() is None:
            self.pull_plug()
        self.shell.close()
        self.monitor.close()


def run_tests(*tests):
    """lib.run_tests for tests with a guest: all are skipped where there can be none."""
    def skipping(test):
        @functools.wraps(test)
        def run(folder):
            try:
                image.ready()
            except image.Unavailable as error:
                return str(error)
            begin = time.monotonic()
            result = test(folder)
            print(f"# {test.__name__}: {time.monotonic() - begin:.0f} s")
            return result
        return run
    lib.run_tests(*map(skipping, tests))
