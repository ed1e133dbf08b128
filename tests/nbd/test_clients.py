#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Real clients: libnbd, nbdinfo, nbdcopy, qemu-img, qemu-io, fio. Each must be pleased."""
import json
import os
import random
import shutil
import subprocess
import tempfile
import urllib.parse

import nbd

from wire import Case, MiB, main, pattern


class Clients(Case):
    def setUp(self):
        self.uri = "nbd+unix:///%s?socket=%s" % (urllib.parse.quote(self.export),
                                                 self.addresses[0])
        self.directory = tempfile.TemporaryDirectory(prefix="nbd-test-")
        self.addCleanup(self.directory.cleanup)

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def file(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def run_tool(self, *command):
        if not shutil.which(command[0]):
            self.skipTest(command[0] + " is not installed")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                              cwd=self.directory.name)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def connect(self):
        h = nbd.NBD()
        h.add_meta_context("base:allocation")
        h.connect_uri(self.uri)
        return h

    def test_libnbd_sees_all_features(self):
        """libnbd agrees on everything that this server has."""
        h = self.connect()
        for can in (h.can_flush, h.can_fua, h.can_trim, h.can_zero, h.can_fast_zero, h.can_df,
                    h.can_cache):
            self.assertTrue(can())
        self.assertTrue(h.get_structured_replies_negotiated())
        self.assertTrue(h.can_meta_context("base:allocation"))
        self.assertEqual([h.get_block_size(n) for n in range(3)], [512, 4096, 32 * MiB])
        h.shutdown()

    def test_libnbd_fallback_export_name(self):
        """Old clients without structured replies, and with a handshake of no flags."""
        h = nbd.NBD()
        h.set_request_structured_replies(False)
        h.set_handshake_flags(0)
        h.connect_uri(self.uri)
        h.pwrite(b"x" * 512, 0)
        self.assertEqual(h.pread(512, 0), b"x" * 512)
        h.shutdown()

    def test_libnbd_option_mode(self):
        """Listing, asking and aborting one by one."""
        h = nbd.NBD()
        h.set_opt_mode(True)
        h.connect_uri(self.uri)
        names = []
        self.assertGreater(h.opt_list(lambda name, description: names.append(name)), 0)
        h.opt_info()
        self.assertGreaterEqual(h.get_size(), 64 * MiB)
        h.set_export_name("no such export")
        self.assertRaises(nbd.Error, h.opt_info)
        h.set_export_name(self.export)
        contexts = []
        h.add_meta_context("base:")
        h.opt_list_meta_context(contexts.append)
        self.assertEqual(contexts, ["base:allocation"])
        h.opt_abort()

    def test_libnbd_flush_across_connections(self):
        """Four connections write, any of them flushes, each sees all of it."""
        handles = [self.connect() for _ in range(4)]
        if not handles[0].can_multi_conn():
            self.skipTest("the export does not offer MULTI_CONN")
        for i, h in enumerate(handles):
            h.pwrite(pattern(MiB, i), i * MiB, nbd.CMD_FLAG_FUA if i % 2 else 0)
        handles[3].flush()
        for i, h in enumerate(handles):
            for k in range(4):
                self.assertEqual(h.pread(MiB, k * MiB), pattern(MiB, k))

    def test_libnbd_random_against_model(self):
        """Hundreds of mixed commands in flight on two connections; the disk is what a bytearray
        says. Each connection has a half of its own, since requests in flight have no order."""
        handles = [self.connect(), self.connect()]
        half, rng = 2 * MiB, random.Random(7)
        models = [bytearray(half), bytearray(half)]
        errors = []

        def completed(error):
            errors.append(error.value)
            return 1
        handles[0].zero(2 * half, 0)
        for _ in range(20):
            for side, h in enumerate(handles):
                start = 0
                keep = []
                while start < half:
                    n = rng.randrange(1, 200) * 512
                    n = min(n, half - start)
                    where, kind = side * half + start, rng.randrange(3)
                    if kind == 0:
                        data = rng.randbytes(n)
                        keep.append(nbd.Buffer.from_bytearray(bytearray(data)))
                        h.aio_pwrite(keep[-1], where, completed)
                        models[side][start:start + n] = data
                    elif kind == 1:
                        h.aio_zero(n, where, completed)
                        models[side][start:start + n] = bytes(n)
                    start += n + rng.randrange(20) * 512
                while h.aio_in_flight():
                    h.poll(-1)
        self.assertEqual(set(errors), {0})
        for side, h in enumerate(handles):
            self.assertEqual(h.pread(half, (1 - side) * half), bytes(models[1 - side]))

    def test_libnbd_block_status_adds_up(self):
        """The extents cover the disk, and what is said to be zero is zero."""
        h = self.connect()
        h.trim(8 * MiB, 0)
        h.pwrite(pattern(MiB), MiB)
        at = 0
        while at < 8 * MiB:
            entries = []
            h.block_status(8 * MiB - at, at,
                           lambda context, offset, e, err: entries.extend(e))
            for length, flags in zip(entries[::2], entries[1::2]):
                self.assertGreater(length, 0)
                if flags & nbd.STATE_ZERO:
                    self.assertEqual(h.pread(length, at), bytes(length))
                at += length
        self.assertEqual(at, 8 * MiB)

    def test_nbdinfo(self):
        """nbdinfo prints the export and its map."""
        info = json.loads(self.run_tool("nbdinfo", "--json", self.uri))["exports"][0]
        self.assertTrue(info["can_fast_zero"])
        self.run_tool("nbdinfo", "--map", self.uri)
        self.run_tool("nbdinfo", "--list", self.uri)

    def test_nbdcopy_there_and_back(self):
        """A file in over several connections, and out again, comes back equal."""
        image = self.file("in", pattern(20 * MiB, 5) + bytes(4 * MiB) + pattern(8 * MiB, 6))
        self.run_tool("nbdcopy", "--flush", image, self.uri)
        self.run_tool("nbdcopy", self.uri, "out")
        with open(image, "rb") as a, open(self.path("out"), "rb") as b:
            self.assertEqual(a.read(), b.read(32 * MiB))

    def test_qemu_img_there_and_back(self):
        """qemu-img converts into the export and compares it."""
        image = self.file("in", pattern(3 * MiB, 8) + bytes(29 * MiB) + pattern(MiB, 9))
        size = self.connect().get_size()
        os.truncate(image, size)
        self.run_tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, self.uri)
        said = self.run_tool("qemu-img", "compare", "-f", "raw", "-F", "raw", image, self.uri)
        self.assertIn("identical", said)

    def test_qemu_io_patterns(self):
        """qemu-io writes, zeroes, discards and verifies."""
        self.run_tool("qemu-io", "-f", "raw", self.uri,
                      "-c", "write -P 0xaa 0 1M", "-c", "write -P 0x55 512 1k",
                      "-c", "write -f -P 0x11 2M 64k", "-c", "write -z 64k 64k",
                      "-c", "write -z -u 128k 64k", "-c", "discard 192k 64k",
                      "-c", "aio_write -P 3 4M 4M", "-c", "aio_flush", "-c", "flush",
                      "-c", "read -P 0xaa 0 512", "-c", "read -P 0x55 512 1k",
                      "-c", "read -P 0xaa 1536 60k", "-c", "read -P 0 64k 128k",
                      "-c", "read -P 0x11 2M 64k", "-c", "read -P 3 4M 4M")

    def test_fio_verify(self):
        """fio writes at random with 32 in flight and verifies."""
        self.run_tool("fio", "--name=t", "--ioengine=nbd", "--uri=" + self.uri, "--rw=randrw",
                      "--bs=4k", "--iodepth=32", "--size=16M", "--verify=crc32c",
                      "--randrepeat=1", "--verify_fatal=1")


if __name__ == "__main__":
    main()
