# SPDX-License-Identifier: Apache-2.0
"""For the Python tests: a daemon in a scratch folder, TAP output, and a load whose every byte is
known. VOLUMED names the program under test."""
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import nbd

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VOLUMED = os.path.abspath(os.environ.get("VOLUMED", os.path.join(ROOT, "build/bin/volumed")))
KiB = 1 << 10
MiB = 1 << 20
BLOCK = 4096


class Daemon:
    """volumed on a data folder. Used as a context, it is killed at the end."""

    def __init__(self, data, *args):
        self.data = data
        self.command = [VOLUMED, "--data-dir", data, *args]
        self.socket = os.path.join(data, "nbd.sock")
        self.log = data + ".log"
        self.process = None

    def spawn(self, **kwargs):
        """Starts it, and does not wait."""
        with open(self.log, "a") as log:
            log.write("--- start\n")
        self.log_start = os.path.getsize(self.log)
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=open(self.log, "a"),
            stderr=subprocess.STDOUT, **kwargs)

    def output(self):
        """What this run of it has said."""
        with open(self.log) as log:
            log.seek(self.log_start)
            return log.read()

    def start(self, **kwargs):
        """Starts it, and waits until it is ready. Returns the seconds that took."""
        begin = time.monotonic()
        self.spawn(**kwargs)
        while "ready:" not in self.output():
            if self.process.poll() is not None:
                raise RuntimeError("volumed did not start: " + self.output())
            if time.monotonic() > begin + 60:
                raise RuntimeError("volumed is not ready after a minute: " + self.output())
            time.sleep(0.005)
        return time.monotonic() - begin

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Returns the exit status; below 0 a signal's number."""
        status = self.process.wait(timeout=120)
        self.process = None
        return status

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()

    def connect(self, name=""):
        handle = nbd.NBD()
        handle.set_export_name(name)
        handle.connect_unix(self.socket)
        return handle

    def check(self):
        """volumed --check: its exit status and what it said."""
        done = subprocess.run([VOLUMED, "--check", self.data], capture_output=True, text=True,
                              timeout=300)
        return done.returncode, done.stdout + done.stderr

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.kill()


def data_of(f):
    """(offset, bytes) of what the sparse file holds."""
    end = 0
    while True:
        try:
            start = os.lseek(f.fileno(), end, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        end = os.lseek(f.fileno(), start, os.SEEK_HOLE)
        yield start, os.pread(f.fileno(), end - start, start)


def flip_in_store(store, needle):
    """Flips a bit in each block of the file that begins with `needle`; returns how many."""
    found = []
    with open(store, "r+b") as f:
        for start, data in data_of(f):
            at = data.find(needle)
            while at >= 0:
                found.append(start + at + 100)
                at = data.find(needle, at + 1)
        for at in found:
            byte = os.pread(f.fileno(), 1, at)[0]
            os.pwrite(f.fileno(), bytes([byte ^ 4]), at)
    return len(found)


def run_tests(*tests):
    """Runs the functions, each in a scratch folder of its own, with TAP on standard output. A
    test's first line of documentation is its promise. One that returns a string was skipped."""
    failed = 0
    print(f"1..{len(tests)}")
    for n, test in enumerate(tests, 1):
        folder = tempfile.mkdtemp(prefix="volumed-test.")
        try:
            skipped = test(folder)
            print(f"ok {n} - {test.__name__}" + (f" # SKIP {skipped}" if skipped else ""))
        except Exception:
            failed += 1
            print(f"not ok {n} - {test.__name__}: {test.__doc__}")
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            for name in sorted(os.listdir(folder)):
                if name.endswith(".log"):
                    with open(os.path.join(folder, name)) as log:
                        for line in log.read().splitlines()[-40:]:
                            print(f"# {name}: {line}")
        finally:
            sys.stdout.flush()
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


# Random bytes that all writes take their data from, at random places.
POOL = random.Random(1).randbytes(8 * MiB)


class Request:
    """A write, trim or write-zeroes under way. `data` is what the range holds after it."""

    def __init__(self, kind, offset, data):
        self.kind = kind  # "write", "trim" or "zero"
        self.offset = offset
        self.data = data
        # Otherwise each block of it may be old or new after a crash.
        self.atomic = kind == "write" and len(data) <= MiB
        self.end = offset + len(data)
        self.buffer = None
        self.cookie = None


class Load(threading.Thread):
    """Keeps requests in flight on a connection of its own, within a region of its own. `expected`
    holds what the region must hold: it follows the acknowledgements. Requests in flight do not
    overlap, so that each can be judged alone: `in_flight`, after the end, are those that were
    never answered."""

    def __init__(self, daemon, base, expected, seed, depth=16):
        super().__init__()
        self.daemon_under_test = daemon
        self.base = base
        self.expected = expected
        self.random = random.Random(seed)
        self.depth = depth
        self.in_flight = []
        self.acknowledged = 0
        self.errors = []  # what the server itself answered
        self.stopping = False

    def stop(self):
        """The load ends once all is answered."""
        self.stopping = True

    def run(self):
        try:
            handle = self.daemon_under_test.connect()
        except nbd.Error:
            return
        try:
            while not self.stopping or self.in_flight:
                while len(self.in_flight) < self.depth and not self.stopping:
                    if not self.send_one(handle):
                        break
                handle.poll(100)
                self.reap(handle)
        except nbd.Error:
            self.reap(handle)  # the connection has ended, and so does the load

    def pick(self):
        """A request that overlaps none in flight, or None."""
        kind = self.random.random()
        if kind < 0.7:
            size = self.random.choice([512, 2048, 4096, 4096, 4096, 8192, 65536, 65536 + 512])
        elif kind < 0.85:
            size = self.random.randrange(1, 257) * 4096
        elif kind < 0.9:
            size = 1 * MiB
        else:
            size = self.random.choice([4096, 65536, 1 * MiB, 3 * MiB])
        unit = 512 if size % 4096 else 4096
        offset = self.random.randrange(0, (len(self.expected) - size) // unit + 1) * unit
        for other in self.in_flight:
            # Neither may share a block: a smaller write reads the rest of its block.
            if offset // BLOCK * BLOCK < other.end + BLOCK and other.offset < offset + size + BLOCK:
                return None
        if kind >= 0.9 and unit == 4096:
            return Request(self.random.choice(["trim", "zero"]), offset, bytes(size))
        start = self.random.randrange(0, len(POOL) - size)
        return Request("write", offset, POOL[start:start + size])

    def send_one(self, handle):
        request = self.pick()
        if request is None:
            return False
        flags = nbd.CMD_FLAG_FUA if self.random.random() < 0.1 else 0
        at = self.base + request.offset
        size = len(request.data)
        if request.kind == "write":
            request.buffer = nbd.Buffer.from_bytearray(bytearray(request.data))
            request.cookie = handle.aio_pwrite(request.buffer, at, flags=flags)
        elif request.kind == "trim":
            request.cookie = handle.aio_trim(size, at, flags=flags)
        else:
            request.cookie = handle.aio_zero(size, at, flags=flags)
        self.in_flight.append(request)
        if self.random.random() < 0.02:
            handle.aio_flush()
        return True

    def reap(self, handle):
        """Takes note of what was answered. What the end of the connection has left unanswered
        stays in flight."""
        for request in list(self.in_flight):
            try:
                if not handle.aio_command_completed(request.cookie):
                    continue
            except nbd.Error as error:
                if error.errnum != errno.ENOTCONN:
                    self.errors.append(str(error))
                continue
            self.in_flight.remove(request)
            self.acknowledged += 1
            self.expected[request.offset:request.end] = request.data


def wait_for_progress(loads, n):
    """Until each of the loads has n acknowledgements."""
    deadline = time.monotonic() + 120
    while min(load.acknowledged for load in loads) < n:
        expect(all(load.is_alive() for load in loads), "a load has ended by itself")
        expect(time.monotonic() < deadline, "no progress in two minutes")
        time.sleep(0.005)


def judge(request, old, new, name):
    """`old` and `new` are what the range held before and holds now."""
    if new in (old, request.data):
        return
    expect(not request.atomic, f"{name}: a write of {len(request.data)} bytes is torn")
    for at in range(0, len(new), BLOCK):
        piece = new[at:at + BLOCK]
        expect(piece in (old[at:at + BLOCK], request.data[at:at + BLOCK]),
               f"{name}: the block at {at} of a request is neither old nor new")


def verify(daemon, loads):
    """Compares every byte of every region with what was acknowledged. What was in flight may be
    there or not; either way it becomes what is expected from now on."""
    handle = daemon.connect()
    for load in loads:
        size = len(load.expected)
        found = bytearray()
        while len(found) < size:
            found += handle.pread(min(8 * MiB, size - len(found)), load.base + len(found))
        for request in load.in_flight:
            span = slice(request.offset, request.end)
            judge(request, bytes(load.expected[span]), bytes(found[span]),
                  f"{load.base + request.offset:#x}")
            load.expected[span] = found[span]
        if found != load.expected:
            at = next(i for i in range(size) if found[i] != load.expected[i])
            raise AssertionError(f"acknowledged bytes are lost: offset {load.base + at:#x}")
    handle.shutdown()
