#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: NBD servers on one disk, by turns, and what they reach of the raw file's speed.

For each cell (kind of load) and round, every server is started, measured and stopped in turn, so
that a disk that drifts drifts for all. See bench/README.md.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import sys
import time

import clients
import goals
import servers
import table

KIB = 1024
CHUNK = 1024 * KIB
# What a turn costs beside the measurement: starting, stopping, emptying the page cache.
TURN_OVERHEAD = 0.4

# Reads come first, on a disk that was just written in sequence; the aged ones see what random
# writes have made of it.
CELLS = (
    clients.Cell("randread-qd1", "randread", 4 * KIB, 1, null=True),
    clients.Cell("randread-qd32", "randread", 4 * KIB, 32, fio=True, tcp=True, cached=True),
    clients.Cell("randread-qd128", "randread", 4 * KIB, 128, quick=False),
    clients.Cell("seqread-128k", "read", 128 * KIB, 8, cached=True),
    clients.Cell("seqwrite-128k", "write", 128 * KIB, 8, cached=True),
    clients.Cell("randwrite-qd1", "randwrite", 4 * KIB, 1, null=True),
    clients.Cell("randwrite-qd32", "randwrite", 4 * KIB, 32, fio=True, tcp=True, cached=True),
    clients.Cell("randwrite-qd128", "randwrite", 4 * KIB, 128),
    clients.Cell("randwrite-flush32", "randwrite", 4 * KIB, 32, flush_every=32),
    clients.Cell("mixed-qd32", "mixed", 4 * KIB, 32, quick=False),
    clients.Cell("mixed-flush32", "mixed", 4 * KIB, 32, flush_every=32, quick=False),
    clients.Cell("randread-aged", "randread", 4 * KIB, 32),
    clients.Cell("seqread-aged", "read", 128 * KIB, 8),
)

# Seconds measured, seconds before that, rounds. The quick form leaves out cells, TCP, fio as a
# client and the cached servers; the full one has all servers in all cells.
FORMS = {"quick": (1.0, 0.3, 2), "usual": (1.6, 0.4, 3), "full": (10.0, 2.0, 5)}


def say(text):
    print(text, flush=True)


def fail(text):
    print(f"bench: {text}", file=sys.stderr)
    sys.exit(1)


def parse_size(text):
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:iB)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"\"{text}\" is no size; write 2GiB or 512MiB")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def names(text):
    return [name for name in text.split(",") if name]


def options():
    def env(name, default):
        return os.environ.get("BENCH_" + name, default)

    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Each option but the programs' can be given as BENCH_<NAME> in the environment.")
    p.add_argument("--nbdload", default="build/release/bench/nbdload", help="the program")
    p.add_argument("--volumed", default="build/bin/volumed", help="the program")
    p.add_argument("--dir", default=env("DIR", "build/bench-data"),
                   help="on the disk to measure; what it holds of earlier runs is removed")
    p.add_argument("--out", default=env("OUT", "build/bench"), help="for tables and logs")
    p.add_argument("--size", default=env("SIZE", "2GiB"), type=parse_size, help="of the disk")
    p.add_argument("--form", default=env("FORM", "usual"), choices=FORMS,
                   help="quick: 3 minutes; usual: 10; full: 4 hours")
    p.add_argument("--seconds", default=env("SECONDS", None), type=float, help="of each turn")
    p.add_argument("--warmup", default=env("WARMUP", None), type=float, help="before each turn")
    p.add_argument("--rounds", default=env("ROUNDS", None), type=int, help="turns of each server")
    p.add_argument("--transport", default=env("TRANSPORT", "both"),
                   choices=("both", "unix", "tcp"),
                   help="both: unix sockets, and some cells over TCP, too")
    p.add_argument("--servers", default=env("SERVERS", ""), type=names,
                   help="some of: " + ",".join(s.name for s in servers.ALL))
    p.add_argument("--cells", default=env("CELLS", ""), type=names,
                   help="some of: " + ",".join(c.name for c in CELLS))
    p.add_argument("--keep", action="store_true", default=env("KEEP", "") == "1",
                   help="leave the data in the directory")
    p.add_argument("--publish", default=env("PUBLISH", ""), metavar="FILE",
                   help="a Markdown file whose table between the bench markers is replaced")
    opt = p.parse_args()
    for name, value in zip(("seconds", "warmup", "rounds"), FORMS[opt.form]):
        if getattr(opt, name) is None:
            setattr(opt, name, value)
    return opt


def chosen(things, wanted, what):
    unknown = set(wanted) - {t.name for t in things}
    if unknown:
        fail(f"no such {what}: {', '.join(sorted(unknown))}; there are "
             f"{', '.join(t.name for t in things)}")
    return [t for t in things if not wanted or t.name in wanted]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write_file(path, size):
    """Fills the file that the peers serve, with random bytes, down to the disk."""
    pool = os.urandom(8 * CHUNK)
    with open(path, "wb", buffering=0) as f:
        for at in range(0, size, CHUNK):
            start = (at // CHUNK * 7919 * 512) % (len(pool) - CHUNK)
            f.write(pool[start:start + min(CHUNK, size - at)])
    settle_file(path)


def settle_file(path):
    """What a cached server left dirty is no burden for the next, nor what is clean a present."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


class Bench:
    def __init__(self, opt):
        self.opt = opt
        self.notes = []
        self.turns = []
        self.cells = [c for c in chosen(CELLS, opt.cells, "cell")
                      if c.quick or opt.cells or opt.form != "quick"]
        directory = os.path.abspath(opt.dir)
        self.file = os.path.join(directory, "disk.raw")
        self.place = servers.Place(directory, self.file, opt.size,
                                   os.path.abspath(os.path.join(opt.out, "logs")),
                                   free_port(), os.path.abspath(opt.volumed))
        self.servers = [s(self.place) for s in chosen(servers.ALL, opt.servers, "server")]
        self.have_fio = shutil.which("fio") is not None
        self.have_fio_nbd = self.have_fio and "nbd" in (
            clients.run(["fio", "--enghelp"], 10).split())

    def prepare(self):
        opt = self.opt
        if not os.access(opt.nbdload, os.X_OK):
            fail(f"{opt.nbdload} is not built; run make bench")
        if opt.size % CHUNK or opt.rounds < 1 or opt.seconds <= 0:
            fail("the size is a multiple of 1 MiB, there is at least one round, and a turn takes "
                 "time")
        shutil.rmtree(self.place.logs, ignore_errors=True)
        os.makedirs(self.place.logs)
        os.makedirs(self.place.directory, exist_ok=True)
        self.clean()
        free = shutil.disk_usage(self.place.directory).free
        if free < 4 * opt.size:
            fail(f"{self.place.directory} has {free >> 20} MiB free, less than four times the "
                 f"disk's {opt.size >> 20} MiB: set BENCH_DIR or BENCH_SIZE")
        self.skip_what_is_missing()

    def clean(self):
        """Removes what a run makes, and nothing else that may be there."""
        shutil.rmtree(self.place.path("volumed"), ignore_errors=True)
        left = ["disk.raw", "nbd-server.conf", "nbd-server.pid"]
        for name in left + [f"{s.name}.sock" for s in servers.ALL]:
            if os.path.lexists(self.place.path(name)):
                os.unlink(self.place.path(name))

    def skip_what_is_missing(self):
        if not self.have_fio:
            self.note("raw file and fio client: fio is not installed (Debian package fio)")
        elif not self.have_fio_nbd:
            self.note("fio client: this fio has no nbd engine")
        for server in list(self.servers):
            why = server.missing()
            if why:
                self.note(f"{server.name}: {why}")
                self.servers.remove(server)

    def note(self, text):
        say(f"SKIPPED {text}")
        self.notes.append(text)

    def precondition(self):
        if self.have_fio or any(s.kind != "ours" for s in self.servers):
            say(f"writing {self.file}, {self.opt.size >> 20} MiB")
            write_file(self.file, self.opt.size)
        for server in [s for s in self.servers if s.kind == "ours"]:
            say(f"filling {server.name} over NBD")
            try:
                server.start()
                clients.fill(self.opt.nbdload, server, self.opt.size)
                server.stop()
            except (servers.ServerError, clients.ClientError) as e:
                self.note(f"{server.name}: cannot be filled: {e}")
                self.servers.remove(server)
                self.stop_quietly(server)

    def targets(self, cell):
        """Who has a turn in each round: client, server, transport; server None is the raw file."""
        first = "tcp" if self.opt.transport == "tcp" else "unix"
        quick = self.opt.form == "quick"
        wanted = {"direct", "ours"}
        if self.opt.form == "full" or (cell.cached and not quick):
            wanted.add("cached")
        if cell.null:
            wanted.add("null")
        those = [s for s in self.servers if s.kind in wanted]
        main = [s for s in those if s.kind in ("direct", "ours")]
        some = [("fio", None, "")] if self.have_fio and cell.pattern != "mixed" else []
        some += [("nbdload", s, first) for s in those]
        if cell.fio and self.have_fio_nbd and not quick:
            some += [("fio", s, first) for s in main]
        if cell.tcp and self.opt.transport == "both" and not quick:
            some += [("nbdload", s, "tcp") for s in main]
        return some

    def run(self):
        total = sum(len(self.targets(c)) for c in self.cells) * self.opt.rounds
        each = self.opt.seconds + self.opt.warmup + TURN_OVERHEAD
        say(f"{total} turns, about {total * each / 60:.0f} minutes")
        done = 0
        for cell in self.cells:
            for number in range(1, self.opt.rounds + 1):
                for client, server, transport in self.targets(cell):
                    done += 1
                    self.place.transport = transport
                    self.turn(cell, number, client, server, f"[{done}/{total}]")
            if self.targets(cell):
                say(table.terminal(cell, table.medians(self.turns)) + "\n")

    def turn(self, cell, number, client, server, progress):
        turn = {"cell": cell.name, "transport": self.place.transport,
                "client": client, "server": server.name if server else "raw file",
                "kind": server.kind if server else "raw", "round": number}
        try:
            turn.update(self.measure(cell, client, server))
            result = f"{turn['iops']:.0f} IOPS, p99 {turn['p99_us']:.0f} us"
        except (servers.ServerError, clients.ClientError) as e:
            turn["error"] = str(e)
            if server:
                time.sleep(0.2)  # the client may notice a death before it is complete
                if isinstance(e, clients.ClientError) and not server.alive():
                    turn["error"] += f"; the server died, see {server.log_path()}"
                self.stop_quietly(server)
            result = f"FAILED: {turn['error']}"
        where = f" over {self.place.transport}" if server else ""
        say(f"{progress} {cell.name} round {number}, {turn['server']} with {client}{where}: "
            f"{result}")
        self.turns.append(turn)
        table.write_csv(os.path.join(self.opt.out, "turns.csv"), table.TURN_COLUMNS, self.turns)

    def measure(self, cell, client, server):
        opt = self.opt
        if os.path.exists(self.file):
            settle_file(self.file)
        if server is None:
            return clients.fio_raw(self.file, cell, opt.seconds, opt.warmup, opt.size)
        server.start()
        if client == "nbdload":
            found = clients.nbdload(opt.nbdload, server, cell, opt.seconds, opt.warmup, opt.size)
        else:
            if opt.warmup:
                clients.nbdload(opt.nbdload, server, cell, opt.warmup, 0, opt.size)
            found = clients.fio_nbd(server, cell, opt.seconds, opt.size)
        if not server.alive():
            raise servers.ServerError(f"{server.name} died; see {server.log_path()}")
        server.stop()
        return found

    def stop_quietly(self, server):
        try:
            server.stop()
        except servers.ServerError as e:
            say(f"note: {e}")

    def report(self):
        rows = table.medians(self.turns)
        facts = table.machine(self.place.directory)
        facts.append(("run", f"{self.opt.size >> 20} MiB disk, {self.opt.rounds} turns of "
                      f"{self.opt.seconds:g} s after {self.opt.warmup:g} s of warm-up"))
        facts += [(f"{s.name} ran as", f"{s.title}, {s.variant}")
                  for s in self.servers if s.variant]
        table.write_csv(os.path.join(self.opt.out, "medians.csv"), table.ROW_COLUMNS, rows)
        text = table.markdown(self.cells, rows, facts, self.notes)
        with open(os.path.join(self.opt.out, "table.md"), "w", encoding="utf-8") as f:
            f.write(text)
        say(goals.terminal(rows))
        if self.opt.publish:
            table.publish(self.opt.publish, text)
        for note in self.notes:
            say(f"SKIPPED {note}")
        say(f"written: {self.opt.out}/table.md, medians.csv, turns.csv")
        return 1 if any(t.get("error") for t in self.turns) or not self.turns else 0

    def stop_all(self):
        for server in self.servers:
            self.stop_quietly(server)
        if not self.opt.keep:
            self.clean()


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    started = time.monotonic()
    signal.signal(signal.SIGTERM, interrupted)
    bench = Bench(options())
    bench.prepare()
    try:
        bench.precondition()
        bench.run()
        code = bench.report()
    except KeyboardInterrupt:
        say("stopped")
        code = 130
    finally:
        bench.stop_all()
    say(f"took {(time.monotonic() - started) / 60:.1f} minutes")
    return code


if __name__ == "__main__":
    sys.exit(main())
