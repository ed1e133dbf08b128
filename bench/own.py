# SPDX-License-Identifier: Apache-2.0
"""What the benches of volumed alone have in common: the daemon with its API, loads, publishing."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import clients
import run
import servers
import table

MIB = 1024 * 1024
# What replaces a failure of any part in a row.
ERRORS = (servers.ServerError, clients.ClientError, subprocess.SubprocessError)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("volumed", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon(servers.Volumed):
    """With settings of its own, and its volumes by name."""

    def __init__(self, place, *settings):
        super().__init__(place)
        self.settings = list(settings)

    def command(self):
        return [self.place.volumed, "--data-dir", self.data_dir(), "--volume-size", "none",
                *self.settings]

    def wait_until_ready(self):
        """As the server's, but to a few milliseconds."""
        deadline = time.monotonic() + 600
        while not self.said_ready():
            if not self.alive():
                raise servers.ServerError(f"volumed did not start; see {self.log_path()}")
            if time.monotonic() > deadline:
                raise servers.ServerError(f"volumed is not ready after 10 minutes; "
                                          f"see {self.log_path()}")
            time.sleep(0.005)

    def launch(self):
        self.log_start = os.path.getsize(self.log_path()) if os.path.exists(self.log_path()) else 0
        super().launch()

    def said_ready(self):
        with open(self.log_path(), "rb") as log:
            log.seek(self.log_start)
            return b"ready:" in log.read()

    def kill(self):
        """Without warning, as a crash."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def discard(self):
        """Ends it, and its data goes."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.data_dir(), ignore_errors=True)

    def ask(self, method, path, body=None):
        connection = Connection(os.path.relpath(os.path.join(self.data_dir(), "volumed.sock")))
        try:
            connection.request(method, "/v1" + path, json.dumps(body) if body else None)
            answer = connection.getresponse()
            reply = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise servers.ServerError(f"{method} {path}: {e}") from e
        finally:
            connection.close()
        if answer.status >= 400:
            raise servers.ServerError(f"{method} {path}: {reply['error']['message']}")
        return reply

    def create(self, size):
        return self.ask("POST", "/volumes", {"size": str(size)})["id"]

    def attach(self, volume, instance):
        """The export's name."""
        return self.ask("POST", f"/volumes/{volume}/attachments",
                        {"instance": instance})["export_name"]

    def instance(self, name):
        return self.ask("POST", "/instances", {"name": name})["id"]

    def volume(self, size):
        """One that is attached: its id, and its export's name."""
        made = self.create(size)
        return made, self.attach(made, self.instance("bench-" + made))

    def counters(self, volume):
        return self.ask("GET", f"/volumes/{volume}")["counters"]

    def memory_mib(self, what="VmRSS:"):
        """Resident now, or at most (VmHWM:)."""
        return int(table.proc_value(f"/proc/{self.pid()}/status", what).split()[0]) / 1024


class Bench:
    """A program that measures volumed alone: options, folders, loads, the table."""

    section = ""  # between which markers of a published document the table goes

    def __init__(self, opt):
        self.opt = opt
        directory = os.path.abspath(opt.dir)
        self.place = servers.Place(directory, "", 0, os.path.abspath(os.path.join(opt.out, "logs")),
                                   0, os.path.abspath(opt.volumed))
        self.daemon = None
        self.failed = False

    def command(self, export, *words):
        return [self.opt.nbdload, "--json", "--seed", str(time.monotonic_ns() & 0xffffff), *words,
                self.daemon.address(), export]

    def load(self, export, *words, seconds=1200):
        """nbdload's findings, with the server's CPU time."""
        return json.loads(clients.run(
            self.command(export, "--server-pid", str(self.daemon.pid()), *words), seconds))

    def fill(self, export, size):
        clients.run([self.opt.nbdload, "--fill", "--pattern", "none", "--working-set", str(size),
                     "--fill-block", "1MiB", "--depth", "16", self.daemon.address(), export], 3600)

    def begin(self, *settings):
        """An empty store."""
        self.end()
        os.makedirs(self.place.logs, exist_ok=True)
        os.makedirs(self.place.directory, exist_ok=True)
        self.daemon = Daemon(self.place, *settings)
        shutil.rmtree(self.daemon.data_dir(), ignore_errors=True)
        self.daemon.start()

    def end(self):
        if self.daemon:
            try:
                self.daemon.discard()
            except servers.ServerError as e:
                run.say(f"note: {e}")
        self.daemon = None

    def need(self, size):
        """The disk must have so much free."""
        os.makedirs(self.place.directory, exist_ok=True)
        free = shutil.disk_usage(self.place.directory).free
        if free < size:
            run.fail(f"{self.place.directory} has {free // MIB} MiB free, and {size // MIB} MiB "
                     f"are needed: set BENCH_DIR, or take --quick")

    def broken(self, what, error):
        self.failed = True
        run.say(f"{what}: FAILED: {error}")
        return f"{what}: {error}"

    def measure(self):
        """Returns the Markdown text."""
        raise NotImplementedError

    def main(self):
        """The program's exit code."""
        signal.signal(signal.SIGTERM, run.interrupted)
        if not os.access(self.opt.nbdload, os.X_OK):
            run.fail(f"{self.opt.nbdload} is not built; run make bench-{self.section}")
        try:
            text = self.measure()
        except KeyboardInterrupt:
            return 130
        finally:
            self.end()
        path = os.path.join(self.opt.out, f"{self.section}.md")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        run.say("\n" + text)
        if self.opt.publish:
            table.publish(self.opt.publish, text, self.section)
        run.say(f"written: {path}")
        return 1 if self.failed else 0


def options(parser):
    """Those that every bench has."""
    def env(name, default):
        return os.environ.get("BENCH_" + name, default)

    parser.add_argument("--nbdload", default="build/release/bench/nbdload", help="the program")
    parser.add_argument("--volumed", default="build/bin/volumed", help="the program")
    parser.add_argument("--dir", default=env("DIR", "build/bench-data"),
                        help="on the disk to measure")
    parser.add_argument("--out", default=env("OUT", "build/bench"), help="for tables and logs")
    parser.add_argument("--publish", default=env("PUBLISH", ""), metavar="FILE",
                        help="a Markdown file whose table between this bench's markers is replaced")
    parser.add_argument("--quick", action="store_true", default=env("FORM", "") == "quick",
                        help="small sizes, a minute: shows that it works, not what is reached")


def facts(directory):
    """One line about when and where."""
    known = dict(table.machine(directory)[:7])
    return (f"{known['date']}, {known['CPU']}, {known['disk'].split('(')[0].strip()}, commit "
            f"{known['commit']}.")


def markdown(head, rows):
    """A table; numbers stand to the right."""
    side = ["---:" if all(is_number(row[i]) for row in rows) else "---" for i in range(len(head))]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(side) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def is_number(text):
    return text == "-" or text.replace(" ", "").split(".")[0].lstrip("-").isdigit()


def size_text(size):
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
