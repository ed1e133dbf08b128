# SPDX-License-Identifier: Apache-2.0
"""volumectl, as a user calls it, and what attach answers as a guest's disk."""
import json
import os
import subprocess
import urllib.parse

from guest import Disk
from image import ROOT

VOLUMECTL = os.path.abspath(os.environ.get("VOLUMECTL", os.path.join(ROOT, "build/bin/volumectl")))


class Volumectl:
    def __init__(self, daemon):
        self.socket = os.path.join(daemon.data, "volumed.sock")

    def __call__(self, *args):
        """Runs it, and it must succeed. Returns its output."""
        done = subprocess.run([VOLUMECTL, "--socket", self.socket, *args], capture_output=True,
                              text=True, timeout=120)
        if done.returncode:
            raise AssertionError(f"volumectl {' '.join(args)}: exit status {done.returncode}: "
                                 f"{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def create(self, size):
        return self("volume", "create", "--size", size, "--quiet")

    def register(self, name):
        return self("instance", "register", name, "--quiet")

    def attach(self, volume, instance):
        """Returns what the daemon tells of the attachment; its disk is disk_of() it."""
        return json.loads(self("attach", volume, "--instance", instance, "--json"))


def disk_of(attachment):
    uri = urllib.parse.urlsplit(attachment["uri"])
    path = urllib.parse.parse_qs(uri.query)["socket"][0]
    return Disk(path, export=urllib.parse.unquote(uri.path[1:]))
