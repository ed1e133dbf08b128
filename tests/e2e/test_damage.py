#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Damage to the store file, done while the daemon is stopped: E4 end to end."""
import os

import nbd

from lib import BLOCK, Daemon, MiB, expect, flip_in_store, run_tests


def damaged_block(folder):
    """A flipped bit is an error for whoever reads that block, never wrong data; --check finds and
    names it; every other block is served."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        handle = daemon.connect()
        good = b"good" * (BLOCK // 4)
        bad = b"HERE IT IS" + b"bad." * ((BLOCK - 10) // 4) + b"\0\0"
        handle.pwrite(good * 16, 0)
        handle.pwrite(bad, 8 * BLOCK)
        handle.flush()
        handle.shutdown()
        expect(daemon.stop() == 0, "exit status")
        status, text = daemon.check()
        expect(status == 0, f"--check before: {status}: {text}")
        expect(flip_in_store(os.path.join(folder, "data", "store"), b"HERE IT IS") == 1,
               "the block is in the store once")
        status, text = daemon.check()
        expect(status == 1, f"--check after: {status}: {text}")
        expect("vol-" in text, f"--check names the volume: {text}")

        daemon.start()
        handle = daemon.connect()
        expect(handle.pread(8 * BLOCK, 0) == good * 8, "the blocks before it")
        expect(handle.pread(7 * BLOCK, 9 * BLOCK) == good * 7, "the blocks after it")
        for offset, length in [(8 * BLOCK, BLOCK), (8 * BLOCK + 512, 512), (0, MiB)]:
            try:
                handle.pread(length, offset)
                raise AssertionError(f"a read of {length} at {offset} gave data")
            except nbd.Error as error:
                expect(error.errno == "EIO", f"the error is {error.errno}")
        with open(daemon.log) as log:
            expect("block 8 (bytes 32768 to 36863)" in log.read(), "the log names the block")
        # A write of part of it would bless the rest; one of all of it heals it.
        try:
            handle.pwrite(b"x" * 512, 8 * BLOCK)
            raise AssertionError("a write of part of a bad block went through")
        except nbd.Error:
            pass
        handle.pwrite(good, 8 * BLOCK)
        expect(handle.pread(16 * BLOCK, 0) == good * 16, "all of it after the overwrite")
        handle.shutdown()
        expect(daemon.stop() == 0, "exit status")


def damaged_superblocks(folder):
    """A store whose first megabyte is gone is refused, not formatted again."""
    with Daemon(os.path.join(folder, "data"), "--volume-size", "64MiB") as daemon:
        daemon.start()
        handle = daemon.connect()
        handle.pwrite(b"precious" * 512, 0)
        handle.shutdown()
        expect(daemon.stop() == 0, "exit status")
        store = os.path.join(folder, "data", "store")
        with open(store, "r+b") as f:
            f.write(bytes(range(256)) * 4096)
        before = os.stat(store)
        daemon.spawn()
        expect(daemon.wait() == 1, "exit status")
        expect(store in daemon.output(), "the message names the store: " + daemon.output())
        after = os.stat(store)
        expect((before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns),
               "the store was written to")
        status, text = daemon.check()
        expect(status in (1, 2), f"--check: {status}: {text}")


run_tests(damaged_block, damaged_superblocks)
