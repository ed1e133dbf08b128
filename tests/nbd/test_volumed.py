#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The protocol tests once more, against the daemon itself: all that do not need nbd_ram's odd
exports. VOLUMED names the program."""
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import wire

VOLUMED = os.path.abspath(os.environ.get("VOLUMED", os.path.join(wire.ROOT, "build/bin/volumed")))


def wait_until_ready(process, log):
    end = time.monotonic() + 60
    while True:
        with open(log) as said:
            text = said.read()
        if "ready:" in text:
            return
        if process.poll() is not None or time.monotonic() > end:
            sys.exit("volumed did not start: " + text)
        time.sleep(0.01)


def main():
    with tempfile.TemporaryDirectory(prefix="nbd-test-") as folder:
        log = os.path.join(folder, "log")
        with open(log, "w") as out:
            process = subprocess.Popen([VOLUMED, "--data-dir", os.path.join(folder, "data"),
                                        "--volume-size", "8GiB"],
                                       stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, log)
            os.environ["VOLUMED_TEST_SOCKET"] = os.path.join(folder, "data", "nbd.sock")
            wire.run(unittest.TestLoader().discover(wire.ROOT + "/tests/nbd"))
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
            if status != 0:
                print("not ok - volumed ended with status %d" % status)
                with open(log) as said:
                    print("# " + said.read()[-4000:].replace("\n", "\n# "))


if __name__ == "__main__":
    main()
