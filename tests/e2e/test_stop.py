#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A clean stop: SIGTERM, with and without load."""
import os
import signal
import subprocess
import time

import nbd

from lib import Daemon, Load, MiB, expect, run_tests, verify, wait_for_progress

REGION = 12 * MiB


def loads_on(daemon, n, expected, seed):
    return [Load(daemon, i * REGION, expected[i], seed + i) for i in range(n)]


def stop_under_load(folder):
    """What was received is answered and durable; connections end by EOF, never by an error reply
    (QEMU would hand it to its guest); the data is found again."""
    expected = [bytearray(REGION) for _ in range(4)]
    with Daemon(os.path.join(folder, "data"), "--volume-size", "1GiB") as daemon:
        for number, signal_number in enumerate([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]):
            daemon.start()
            loads = loads_on(daemon, 4, expected, 100 * number)
            for load in loads:
                load.start()
            wait_for_progress(loads, 10)
            daemon.signal(signal_number)
            status = daemon.wait()
            for load in loads:
                load.join()
                expect(not load.errors, f"error replies during the stop: {load.errors}")
            expect(status == 0, f"exit status {status}: {daemon.output()}")
            expect(not os.path.exists(daemon.socket), "the socket is left behind")
            status, text = daemon.check()
            expect(status == 0, f"--check after a clean stop: {status}: {text}")
            daemon.start()
            verify(daemon, loads)
            expect(daemon.stop() == 0, "an idle daemon's exit status")


def stop_answers_what_was_received(folder):
    """Requests that were in the daemon's hands when the signal came are answered before the EOF."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        handle = daemon.connect()
        # The reply to the last says that all before it were received: the server reads in order.
        cookies = [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"x" * MiB)), i * MiB)
                   for i in range(16)]
        last = handle.aio_cache(4096, 0)
        while not handle.aio_command_completed(last):
            handle.poll(-1)
        daemon.signal(signal.SIGTERM)
        while cookies:
            done = [c for c in cookies if handle.aio_command_completed(c)]
            cookies = [c for c in cookies if c not in done]
            if cookies:
                handle.poll(-1)
        expect(daemon.wait() == 0, "exit status")
        daemon.start()
        handle = daemon.connect()
        expect(handle.pread(16 * MiB, 0) == b"x" * (16 * MiB), "written data")


def stop_with_idle_and_silent_peers(folder):
    """Peers that say nothing, in the handshake or after it, do not hold up the stop for long."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        handles = [daemon.connect() for _ in range(8)]
        silent = subprocess.Popen(
            ["/usr/bin/python3", "-c",
             "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
             "print(flush=True); sys.stdin.read()", daemon.socket],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            silent.stdout.readline()
            begin = time.monotonic()
            expect(daemon.stop() == 0, "exit status")
            expect(time.monotonic() - begin < 30, "the stop waited for silent peers")
        finally:
            silent.stdin.close()
            silent.wait()
            silent.stdout.close()
        del handles


def stop_during_start(folder):
    """A signal while the daemon is still starting stops it cleanly, too."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        for delay in [0, 0.005, 0.01, 0.02, 0.05]:
            daemon.spawn()
            time.sleep(delay)
            daemon.signal(signal.SIGTERM)
            # Before it catches signals, the default action ends it.
            status = daemon.wait()
            expect(status in (0, -signal.SIGTERM), f"exit status {status}: {daemon.output()}")
        daemon.start()
        expect(daemon.stop() == 0, "exit status")


run_tests(stop_under_load, stop_answers_what_was_received, stop_with_idle_and_silent_peers,
          stop_during_start)
