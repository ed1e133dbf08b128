#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sockets that a service manager holds, and the word that it gets: LISTEN_FDS, NOTIFY_SOCKET."""
import os
import signal
import socket
import subprocess
import threading

import nbd

from lib import VOLUMED, Daemon, expect, run_tests


class Manager:
    """As systemd does it: keeps a unix and a TCP socket, and listens for notifications."""

    def __init__(self, folder, unix_path):
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(unix_path)
        self.unix.listen(16)
        self.tcp = socket.socket(socket.AF_INET)
        self.tcp.bind(("127.0.0.1", 0))
        self.tcp.listen(16)
        self.unix_path = unix_path
        self.port = self.tcp.getsockname()[1]
        self.notify_path = os.path.join(folder, "notify")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.notify_path)
        self.notify.settimeout(60)
        self.log = open(os.path.join(folder, "volumed.log"), "a")

    def start(self, data, *args):
        """sh sets LISTEN_PID to the process that becomes volumed; descriptors begin at 3."""
        script = f'exec 3<&{self.unix.fileno()} 4<&{self.tcp.fileno()}; ' \
                 'LISTEN_PID=$$ exec "$@"'
        env = dict(os.environ, LISTEN_FDS="2", NOTIFY_SOCKET=self.notify_path)
        process = subprocess.Popen(
            ["bash", "-c", script, "-", VOLUMED, "--data-dir", data, "--volume-size", "64MiB",
             *args],
            env=env, pass_fds=[self.unix.fileno(), self.tcp.fileno()], stdout=self.log,
            stderr=self.log)
        self.wait_for("READY=1")
        return process

    def wait_for(self, word):
        while word not in self.notify.recv(4096).decode().split("\n"):
            pass

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        self.wait_for("STOPPING=1")
        status = process.wait(timeout=60)
        expect(status == 0, f"exit status {status}")


def read_and_write(connect, data):
    handle = nbd.NBD()
    connect(handle)
    found = handle.pread(4096, 0)
    handle.pwrite(data * 4096, 0, flags=nbd.CMD_FLAG_FUA)
    handle.shutdown()
    return found[:1]


def activation(folder):
    """Passed sockets are served beside DIR/nbd.sock, and stay alive and whole over a restart:
    who connects meanwhile waits, and is served by the next daemon."""
    data = os.path.join(folder, "data")
    manager = Manager(folder, os.path.join(folder, "held.sock"))
    process = manager.start(data)
    try:
        expect(read_and_write(lambda h: h.connect_unix(manager.unix_path), b"1") == b"\0", "unix")
        expect(read_and_write(lambda h: h.connect_tcp("127.0.0.1", str(manager.port)), b"2")
               == b"1", "tcp")
        expect(read_and_write(lambda h: h.connect_unix(os.path.join(data, "nbd.sock")), b"3")
               == b"2", "DIR/nbd.sock")
        manager.stop(process)
        expect(not os.path.exists(os.path.join(data, "nbd.sock")), "its own socket is gone")
        expect(os.path.exists(manager.unix_path), "the held socket is not ours to remove")

        found = {}
        waiting = [
            threading.Thread(target=lambda: found.update(unix=read_and_write(
                lambda h: h.connect_unix(manager.unix_path), b"3"))),
            threading.Thread(target=lambda: found.update(tcp=read_and_write(
                lambda h: h.connect_tcp("127.0.0.1", str(manager.port)), b"3"))),
        ]
        for thread in waiting:
            thread.start()
        process = manager.start(data)
        for thread in waiting:
            thread.join()
        expect(found == {"unix": b"3", "tcp": b"3"}, f"after the restart: {found}")
        manager.stop(process)
    finally:
        process.kill()
        process.wait()


def activation_of_our_own_path(folder):
    """A passed socket may be DIR/nbd.sock itself."""
    data = os.path.join(folder, "data")
    os.mkdir(data, 0o700)
    manager = Manager(folder, os.path.join(data, "nbd.sock"))
    process = manager.start(data)
    try:
        expect(read_and_write(lambda h: h.connect_unix(manager.unix_path), b"1") == b"\0", "unix")
        manager.stop(process)
        expect(os.path.exists(manager.unix_path), "the held socket is not ours to remove")
    finally:
        process.kill()
        process.wait()


def activation_refuses_other_descriptors(folder):
    """A passed descriptor that is no listening stream socket is an error, said by name."""
    data = os.path.join(folder, "data")
    done = subprocess.run(
        ["bash", "-c", 'exec 3</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "-", VOLUMED,
         "--data-dir", data], capture_output=True, text=True, timeout=60)
    expect(done.returncode == 1, f"exit status {done.returncode}")
    expect("descriptor 3" in done.stderr, done.stderr)


def stdio(folder):
    """One connection over standard input and output, be it a socket or pipes."""
    data = os.path.join(folder, "data")
    command = [VOLUMED, "--data-dir", data, "--volume-size", "64MiB", "--stdio"]
    expect(read_and_write(lambda h: h.connect_command(command), b"1") == b"\0", "socket")
    piped = ["bash", "-c", 'cat | "$@" | cat', "-", *command]
    for expected, written in [(b"1", b"2"), (b"2", b"3")]:
        # The one before may still be closing its store.
        daemon = Daemon(data)
        for _ in range(200):
            if daemon.check()[0] == 0:
                break
        expect(read_and_write(lambda h: h.connect_command(piped), written) == expected, "pipes")


run_tests(activation, activation_of_our_own_path, activation_refuses_other_descriptors, stdio)
