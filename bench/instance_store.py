#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-instance-store`: what the encryption of the instance store costs.

The same loads on the same disk, by the daemon and by one that was linked without its cipher: requests
and MiB a second, and the daemon's CPU time for each request. See bench/README.md.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

INSTANCE = "i-0123456789abcdef0"
SIZE = 4 << 30
# name, nbdload's words
LOADS = (
    ("4 KiB random reads, depth 1", ("--pattern", "randread", "--depth", "1")),
    ("4 KiB random reads, depth 32", ("--pattern", "randread", "--depth", "32")),
    ("4 KiB random writes, depth 1", ("--pattern", "randwrite", "--depth", "1")),
    ("4 KiB random writes, depth 32", ("--pattern", "randwrite", "--depth", "32")),
    ("1 MiB reads, depth 4", ("--pattern", "read", "--block-size", "1MiB", "--depth", "4")),
    ("1 MiB writes, depth 4", ("--pattern", "write", "--block-size", "1MiB", "--depth", "4")),
)


class Daemon:
    def __init__(self, program, folder, keys):
        self.folder = os.path.join(folder, "data")
        self.log = open(os.path.join(folder, "log"), "w")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.process = subprocess.Popen(
            [program, "--data-dir", self.folder, "--size", str(SIZE + (64 << 20)), "--key-dir",
             keys, "--threads", "1"], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while "ready:" not in open(self.log.name).read():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("it did not start: " + open(self.log.name).read())
            time.sleep(0.05)
        subprocess.run([program, "create", INSTANCE, "0", str(SIZE), "--socket",
                        self.folder + "/instance-stored.sock"], check=True,
                       stdout=subprocess.DEVNULL)

    def load(self, nbdload, *words):
        words = [nbdload, "--json", *words, "unix:" + self.folder + "/nbd.sock",
                 INSTANCE + ".ephemeral0"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout) if done.stdout else None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def measure(opt, program, folder, keys):
    """Each load's findings, on a disk of which all is written."""
    daemon = Daemon(program, folder, keys)
    try:
        daemon.load(opt.nbdload, "--fill", "--pattern", "none", "--working-set", str(SIZE),
                    "--fill-block", "1MiB", "--depth", "16")
        return [daemon.load(opt.nbdload, "--server-pid", str(daemon.process.pid), "--runtime",
                            str(opt.seconds), "--working-set", str(SIZE), *words)
                for _, words in LOADS]
    finally:
        daemon.stop()
        shutil.rmtree(daemon.folder)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--nbdload", required=True)
    p.add_argument("--daemon", required=True)
    p.add_argument("--plain", required=True, help="the one without the cipher")
    p.add_argument("--dir", default=os.environ.get("BENCH_DIR", "."))
    p.add_argument("--seconds", type=float, default=float(os.environ.get("BENCH_SECONDS", "5")))
    opt = p.parse_args()
    folder = tempfile.mkdtemp(prefix="bench-instance-store.", dir=opt.dir)
    keys = tempfile.mkdtemp(prefix="bench-instance-store.", dir="/dev/shm")
    try:
        found = [measure(opt, program, folder, keys) for program in (opt.plain, opt.daemon)]
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(keys)
    print("| load | IOPS without | with | CPU us a request without | with | cost |")
    print("|---|---|---|---|---|---|")
    for (name, _), plain, real in zip(LOADS, *found):
        a, b = plain["server_cpu_us_per_io"], real["server_cpu_us_per_io"]
        print(f"| {name} | {plain['iops']:.0f} | {real['iops']:.0f} | {a:.2f} | {b:.2f} | "
              f"{b - a:+.2f} us |")


if __name__ == "__main__":
    main()
