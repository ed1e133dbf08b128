#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""instance-stored with real files: its data ends with its key. INSTANCE_STORED names the program,
SOAK=1 takes 1 GiB in place of 64 MiB."""
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import nbd
from lib import MiB, ROOT, VOLUMED, expect, run_tests

PROGRAM = os.path.join(os.path.dirname(VOLUMED), "instance-stored")
SIZE = (1024 if os.environ.get("SOAK") else 64) * MiB
BLOCK = 4096
A = "i-0000000000000000a"
B = "i-0000000000000000b"


class Store:
    """An instance-stored in a folder, with names of machine and boot of its own."""

    def __init__(self, folder, *args, size=SIZE * 2 + 9 * MiB):
        self.folder = folder
        self.data = os.path.join(folder, "data")
        self.keys = tempfile.mkdtemp(prefix="volumed-test.", dir=keys_in(folder))
        self.machine = self.file("machine-id", "1" * 32)
        self.boot = self.file("boot-id", "2" * 32)
        self.size = size
        self.args = args
        self.process = None
        self.log = os.path.join(folder, "instance-stored.log")

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write(text + "\n")
        return path

    def command(self):
        return [PROGRAM, "--data-dir", self.data, "--size", str(self.size), "--key-dir", self.keys,
                "--machine-id", self.machine, "--boot-id", self.boot,
                *([] if self.keys.startswith("/dev/shm") else ["--allow-key-dir-on-disk"]),
                *self.args]

    def spawn(self):
        with open(self.log, "a") as log:
            log.write("--- start\n")
        self.log_start = os.path.getsize(self.log)
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL,
                                        stdout=open(self.log, "a"), stderr=subprocess.STDOUT)

    def output(self):
        with open(self.log) as log:
            log.seek(self.log_start)
            return log.read()

    def start(self):
        self.spawn()
        deadline = time.monotonic() + 60
        while "ready:" not in self.output():
            expect(self.process.poll() is None, "it did not start: " + self.output())
            expect(time.monotonic() < deadline, "it is not ready: " + self.output())
            time.sleep(0.01)

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        self.process = None
        expect(status == (0 if number == signal.SIGTERM else -number),
               f"signal {number} ended it with status {status}")

    def restart(self, number=signal.SIGTERM):
        self.end(number)
        self.start()

    def run(self, *words, check=True):
        done = subprocess.run([PROGRAM, *words, "--socket", self.data + "/instance-stored.sock"],
                              capture_output=True, text=True, timeout=60)
        if check:
            expect(done.returncode == 0, f"{words}: {done.stderr}")
        return done

    def disks(self):
        return {d["export"]: d for d in json.loads(self.run("list", "--json").stdout)["disks"]}

    def connect(self, instance, number=0):
        handle = nbd.NBD()
        handle.set_export_name(f"{instance}.ephemeral{number}")
        handle.connect_unix(self.data + "/nbd.sock")
        return handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.end(signal.SIGKILL)
        shutil.rmtree(self.keys, ignore_errors=True)


def keys_in(folder):
    """A folder on tmpfs, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else folder


def known(seed, n=SIZE):
    """Bytes of which no 4-KiB piece is like another."""
    return random.Random(seed).randbytes(n)


def write_all(handle, data):
    for at in range(0, len(data), MiB):
        handle.pwrite(data[at:at + MiB], at)
    handle.flush()


def read_all(handle):
    size = handle.get_size()
    return b"".join(handle.pread(min(8 * MiB, size - at), at) for at in range(0, size, 8 * MiB))


def is_zero(handle):
    return not any(read_all(handle))


def pieces_in(path, data):
    """4-KiB pieces of the data that are in the file, at any multiple of 512 bytes."""
    marks = {data[at:at + 16] for at in range(0, len(data), BLOCK)}
    found = 0
    with open(path, "rb") as f:
        while chunk := f.read(8 * MiB):
            found += sum(chunk[at:at + 16] in marks for at in range(0, len(chunk), 512))
    return found


def wiped_data_is_nowhere(folder):
    """64 MiB of known data: not in the store as plaintext, before or after a wipe, nor to be had
    by any tenant from a copy of the store that a snooper made and puts back."""
    data = known(1)
    store_file = os.path.join(folder, "data", "store")
    with Store(folder, "--discard-rate", "1M") as store:
        store.start()
        store.run("create", A, "0", str(SIZE))
        handle = store.connect(A)
        write_all(handle, data)
        expect(read_all(handle) == data, "it does not read what it wrote")
        handle.shutdown()
        expect(pieces_in(store_file, data) == 0, "plaintext is in the store")
        store.end(signal.SIGTERM)
        shutil.copy(store_file, folder + "/snoop")
        expect(pieces_in(folder + "/snoop", data) == 0, "plaintext is in the copy")
        store.start()
        begin = time.monotonic()
        store.run("wipe", A)
        took = time.monotonic() - begin
        print(f"# a wipe of {SIZE // MiB} MiB took {took * 1000:.0f} ms, with the command's start")
        expect(is_zero(store.connect(A)), "a wiped disk does not read as zeroes")
        store.run("delete", A)
        store.run("create", B, "0", str(SIZE))
        expect(is_zero(store.connect(B)), "a new tenant does not read zeroes")
        expect(pieces_in(store_file, data) == 0, "plaintext is in the store after the wipe")
        store.end(signal.SIGTERM)
        shutil.copy(folder + "/snoop", store_file)
        store.start()
        expect(not store.disks(), "the copy brought a disk back")
        store.run("create", A, "0", str(SIZE))
        expect(is_zero(store.connect(A)), "the copy brought data back")


def restarts_keep_data(folder):
    """What was written survives a stop and a SIGKILL of the daemon, and reboots of the instance."""
    data = known(2, 16 * MiB)
    with Store(folder, "--threads", "2") as store:
        store.start()
        store.run("create", A, "0", "20MiB")
        store.run("create", A, "1", "20MiB")
        handle = store.connect(A, 1)
        write_all(handle, data)
        handle.shutdown()
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            store.restart(number)
            store.run("event", A, "reboot")
            expect(read_all(store.connect(A, 1))[:len(data)] == data, "data is lost")
            expect(is_zero(store.connect(A, 0)), "the other disk is not empty")
        for event in ("stop", "hibernate", "terminate", "move", "host-failure"):
            store.run("create", A, "1", "20MiB")
            handle = store.connect(A, 1)
            handle.pwrite(data[:BLOCK], 0)
            handle.shutdown()
            store.run("event", A, event)
            expect(not store.disks(), f"{event} left a disk")
            store.run("create", A, "1", "20MiB")
            expect(is_zero(store.connect(A, 1)), f"{event} left data")


def another_boot_or_host(folder):
    """Another boot ends the disks; on another machine the store is refused, until it is adopted."""
    data = known(3, MiB)
    with Store(folder) as store:
        store.start()
        store.run("create", A, "0", "20MiB")
        write_all(store.connect(A), data)
        store.end(signal.SIGTERM)
        store.file("machine-id", "3" * 32)
        store.spawn()
        expect(store.process.wait(timeout=60) == 1, "another machine's store is served")
        expect("--adopt" in store.output(), "it does not say what to do: " + store.output())
        store.file("machine-id", "1" * 32)
        store.start()
        expect(read_all(store.connect(A))[:MiB] == data, "the refusal changed something")
        store.end(signal.SIGTERM)
        store.file("boot-id", "4" * 32)
        store.start()
        expect("have ended" in store.output(), "it does not say that disks have ended")
        expect(not store.disks(), "a disk outlived the boot of its host")
        expect(not [f for _, _, files in os.walk(store.keys) for f in files], "a key is left")
        store.run("create", A, "0", "20MiB")
        expect(is_zero(store.connect(A)), "data outlived the boot of its host")
        store.end(signal.SIGTERM)
        store.file("machine-id", "3" * 32)
        store.args = ("--adopt",)
        store.start()
        expect(not store.disks(), "a disk outlived the change of hosts")


class Writer(threading.Thread):
    """Writes its pattern until it gets an error."""

    def __init__(self, handle):
        super().__init__()
        self.handle = handle
        self.n = 0

    def run(self):
        try:
            while True:
                self.handle.pwrite(b"\x5a" * 65536, self.n % 256 * 65536)
                self.n += 1
        except nbd.Error:
            pass


def killed_in_a_wipe(folder):
    """SIGKILL at any time in a wipe under load: the disk is as it was, if the wipe had not begun;
    or it is gone or empty; never anything else. And what is made next reads zeroes."""
    rounds = 40 if os.environ.get("SOAK") else 8
    pause = random.Random(5)
    with Store(folder) as store:
        store.start()
        for _ in range(rounds):
            store.run("create", A, "0", "20MiB")
            writer = Writer(store.connect(A))
            writer.start()
            deadline = time.monotonic() + 30
            while writer.n < 260:
                expect(time.monotonic() < deadline, "the writer does not get on")
                time.sleep(0.005)
            wipe = subprocess.Popen(
                [PROGRAM, "wipe", A, "--socket", store.data + "/instance-stored.sock"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(pause.uniform(0, 0.02))
            store.end(signal.SIGKILL)
            status = wipe.wait(timeout=60)
            writer.join(timeout=60)
            store.start()
            if store.disks():
                found = read_all(store.connect(A))
                zero = not any(found)
                expect(zero or status != 0, "an acknowledged wipe left data")
                expect(zero or found[:16 * MiB] == b"\x5a" * (16 * MiB), "neither old nor empty")
            store.run("delete", A, check=False)
            store.run("create", A, "0", "20MiB")
            expect(is_zero(store.connect(A)), "the next tenant sees something")
            store.run("delete", A)


def wipe_ends_connections(folder):
    """Who is connected when a disk is wiped is cut off, and can't write what comes next."""
    with Store(folder) as store:
        store.start()
        store.run("create", A, "0", "20MiB")
        handle = store.connect(A)
        handle.pwrite(b"x" * BLOCK, 0)
        store.run("wipe", A)
        try:
            handle.pwrite(b"y" * BLOCK, 0)
            expect(False, "a fenced connection still writes")
        except nbd.Error:
            pass
        expect(is_zero(store.connect(A)), "a wiped disk does not read as zeroes")


def discards_come_back(folder):
    """What was wiped or trimmed is given back to the file system, and a restart goes on with it."""
    def used(store):
        return os.stat(store.data + "/store").st_blocks * 512

    def wait(store, most):
        deadline = time.monotonic() + 60
        while used(store) > most:
            expect(time.monotonic() < deadline, f"{used(store)} bytes are still in use")
            time.sleep(0.05)

    with Store(folder, "--discard-rate", "1M") as store:
        store.start()
        store.run("create", A, "0", "40MiB")
        handle = store.connect(A)
        write_all(handle, known(6, 32 * MiB))
        handle.trim(8 * MiB, 0)
        handle.shutdown()
        wait(store, 24 * MiB + 16 * MiB)
        store.run("delete", A)
        store.run("create", B, "0", "60MiB")
        handle = store.connect(B)
        handle.pwrite(b"b" * MiB, 32 * MiB)
        handle.shutdown()
        store.args = ("--discard-rate", "0")
        store.restart(signal.SIGKILL)
        wait(store, 16 * MiB)
        handle = store.connect(B)
        expect(handle.pread(MiB, 32 * MiB) == b"b" * MiB, "a discard took a tenant's data")


def refusals_say_why(folder):
    """Bad commands, foreign files and a second daemon are refused, with a reason."""
    with Store(folder) as store:
        store.start()
        for words, text in (
                (("create", "nobody", "0", "1GiB"), "i-0123456789abcdef0"),
                (("create", A, "24", "1MiB"), "0 to 23"),
                (("create", A, "0", "1TiB"), "room for"),
                (("create", A, "x", "1MiB"), "75GiB"),
                (("wipe", A), "no such disk"),
                (("delete", A, "7"), "no such disk"),
                (("event", A, "party"), "hibernate")):
            done = store.run(*words, check=False)
            expect(done.returncode != 0 and text in done.stderr, f"{words}: {done.stderr}")
        for words in (("list", "--frobnicate"), ("create", A), ("frobnicate",)):
            done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=60)
            expect(done.returncode == 2, f"{words}: {done.returncode} {done.stderr}")
        second = subprocess.run(store.command(), capture_output=True, text=True, timeout=60)
        expect(second.returncode == 1 and "another process" in second.stderr, second.stderr)
        store.end(signal.SIGTERM)
        done = store.run("list", check=False)
        expect(done.returncode == 1 and "--data-dir" in done.stderr, done.stderr)
        with open(store.data + "/store", "r+b") as f:
            f.write(b"something else" * 1000)
        before = open(store.data + "/store", "rb").read(64 * 1024)
        foreign = subprocess.run([*store.command(), "--store", store.machine],
                                 capture_output=True, text=True, timeout=60)
        expect(foreign.returncode == 1 and "left alone" in foreign.stderr, foreign.stderr)
        store.start()  # from its second superblock
        expect("repaired" in store.output(), store.output())
        expect(open(store.data + "/store", "rb").read(64 * 1024) != before, "nothing is repaired")


if __name__ == "__main__":
    os.chdir(ROOT)
    run_tests(wiped_data_is_nowhere, restarts_keep_data, another_boot_or_host, killed_in_a_wipe,
              wipe_ends_connections, discards_come_back, refusals_say_why)
