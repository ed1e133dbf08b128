#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-repository`: what snapshots cost, and how fast they come and go.

Each number to reach is measured against what it is to be compared with, by turns in one run: the
clients of a busy volume around a snapshot, restores, first reads, upload and hydration against cp
and fsync, set rates, deletion, a volume with hundreds of snapshots against one with none. See
bench/README.md.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

import nbd

import clients
import own
import run
import servers
import table

KIB = 1 << 10
GIB = 1 << 30
TIB = 1 << 40
UNIT = 512 * KIB  # of snapshots
COLUMNS = ("what", "value", "unit", "target", "reached", "error")
# A restore or an upload that takes longer hangs.
PATIENCE = 900


class Form:
    """How much of each is measured."""

    def __init__(self, quick):
        self.size = 256 * own.MIB if quick else GIB  # that is copied
        self.busy = 256 * own.MIB if quick else GIB  # that is written to around a snapshot
        self.rounds = 3 if quick else 5
        self.cuts = 4 if quick else 8
        self.reads = 100 if quick else 300
        self.many = 100 if quick else 500
        self.turns = 3 if quick else 5
        self.turn_seconds = 1 if quick else 2
        self.rate = 64 * own.MIB


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    own.options(p)
    p.add_argument("--repository", default="build/release/bench/repository", help="the program")
    p.add_argument("--parts", default=os.environ.get("BENCH_PARTS", ""),
                   type=lambda text: text.split(",") if text else [],
                   help="only these, of " + ", ".join(Repository.PARTS))
    return p.parse_args()


def device_ios(directory):
    """Reads and writes that the disk below has done since it was there; None where it says
    nothing."""
    stat = os.stat(directory)
    want = [str(os.major(stat.st_dev)), str(os.minor(stat.st_dev))]
    with open("/proc/diskstats", encoding="ascii") as f:
        for line in f:
            fields = line.split()
            if fields[:2] == want:
                return int(fields[3]) + int(fields[7])
    return None


class Clock:
    def __init__(self):
        self.begin = time.monotonic()

    def ms(self):
        return (time.monotonic() - self.begin) * 1000

    def seconds(self):
        return time.monotonic() - self.begin


class Repository(own.Bench):
    section = "repository"
    PARTS = ("create", "restore", "cold", "copy", "rate", "delete", "many", "increment")

    def __init__(self, opt):
        super().__init__(opt)
        self.form = Form(opt.quick)
        self.region = self.place.path("region")
        self.source = self.place.path("source")
        self.rows = []

    # ---- Small pieces ----

    def begin(self, *settings):
        self.end()
        super().begin("--snapshots", self.region, *settings)

    def end(self):
        super().end()
        shutil.rmtree(self.region, ignore_errors=True)

    def uri(self, export):
        return f"nbd+unix:///{export}?socket={self.daemon.socket_path()}"

    def connect(self, export):
        handle = nbd.NBD()
        handle.connect_uri(self.uri(export))
        return handle

    def snapshot(self, volume):
        """Milliseconds until it was answered, and its id."""
        clock = Clock()
        made = self.daemon.ask("POST", "/snapshots", {"volume": volume})["id"]
        return clock.ms(), made

    def wait(self, what, path, done):
        """Asks until `done` is true of the answer, which it returns."""
        clock = Clock()
        while True:
            answer = self.daemon.ask("GET", path)
            if answer.get("state") == "error":
                raise servers.ServerError(f"{what}: {answer['error']}")
            if done(answer):
                return answer
            if clock.seconds() > PATIENCE:
                raise servers.ServerError(f"{what} is not done after {PATIENCE} s")
            time.sleep(0.01)

    def completed(self, snapshot):
        return self.wait(snapshot, f"/snapshots/{snapshot}", lambda s: s["state"] == "completed")

    def hydrated(self, volume):
        return self.wait(volume, f"/volumes/{volume}", lambda v: v["snapshot"] is None)

    def restore(self, snapshot, rate=None):
        body = {"snapshot": snapshot}
        if rate:
            body["initialization_rate"] = str(rate)
        volume = self.daemon.ask("POST", "/volumes", body)["id"]
        return volume, self.daemon.attach(volume, self.daemon.instance("bench-" + volume))

    def remove(self, volume):
        self.daemon.ask("DELETE", f"/volumes/{volume}/attachments")
        self.daemon.ask("DELETE", f"/volumes/{volume}")

    def drop_caches(self):
        """Of all objects of the repository."""
        for folder, _, names in os.walk(self.region):
            for name in names:
                run.settle_file(os.path.join(folder, name))

    def copy_in(self, export):
        clients.run(["nbdcopy", "--flush", self.source, self.uri(export)], PATIENCE)

    def write_source(self):
        if not os.path.exists(self.source):
            run.write_file(self.source, self.form.size)

    def row(self, what, value, unit, target, reached):
        """`target` is a text, `reached` says whether it is; both None for what is only told."""
        self.rows.append({"what": what, "value": value, "unit": unit, "target": target,
                          "reached": {None: "", True: "reached", False: "not reached"}[reached]})
        run.say(f"{what}: {value:.4g} {unit}" + (f" (target: {target})" if target else ""))

    def at_most(self, what, value, unit, most):
        self.row(what, value, unit, f"at most {most:g}", value <= most)

    # ---- Creating ----

    def create(self):
        for size in (64 * GIB, 4 * TIB):
            self.begin()
            self.create_on(size)

    def write_for(self, export, seconds):
        return self.command(export, "--pattern", "randwrite", "--depth", "32", "--working-set",
                            str(self.form.busy), "--runtime", str(seconds))

    def create_on(self, size):
        """Random writes at queue depth 32, a second without and a second with a snapshot in its
        middle, by turns."""
        volume, export = self.daemon.volume(size)
        self.load(export, "--pattern", "write", "--block-size", "1MiB", "--depth", "8", "--ios",
                  str(self.form.busy // own.MIB))
        took, before, around = [], [], []
        for _ in range(self.form.cuts):
            before.append(self.p99(export, lambda: None)[0])
            p99, (ms, snapshot) = self.p99(export, lambda: self.snapshot(volume))
            around.append(p99)
            took.append(ms)
            self.completed(snapshot)
        of = f"{own.size_text(size)} under random writes"
        self.at_most(f"create, of {of}, median", statistics.median(took), "ms", 10)
        self.at_most(f"create, of {of}, longest", max(took), "ms", 10)
        self.row("writes' p99 in a second without", statistics.median(before), "us", None, None)
        self.row("writes' p99 in the second around it", statistics.median(around), "us", None,
                 None)
        self.at_most("that by the former, medians by turns", statistics.median(
            a / b for a, b in zip(around, before)), "x", 2)

    def p99(self, export, meanwhile):
        """Of the writes of a second, and what `meanwhile` returned half-way."""
        with subprocess.Popen(self.write_for(export, 1), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True) as load:
            time.sleep(0.5)
            result = meanwhile()
            output, _ = load.communicate(timeout=60)
        if load.returncode:
            raise clients.ClientError(f"nbdload: exit status {load.returncode}")
        return json.loads(output)["latency_us"]["p99"], result

    # ---- Restoring ----

    def restore_part(self):
        self.begin()
        for size, written in ((GIB, 64 * own.MIB), (4 * TIB, self.form.size)):
            volume, export = self.daemon.volume(size)
            places = self.scatter(export, size, written)
            _, snapshot = self.snapshot(volume)
            self.completed(snapshot)
            took = []
            for n in range(self.form.rounds):
                self.drop_caches()
                clock = Clock()
                restored, export = self.restore(snapshot, own.MIB)
                handle = self.connect(export)
                read = handle.pread(4096, places[n])
                took.append(clock.ms())
                if read == bytes(4096):
                    raise servers.ServerError("the restored volume reads as zeroes")
                handle.shutdown()
                self.remove(restored)
            self.at_most(f"restore of {own.size_text(size)} to the first read, median",
                         statistics.median(took), "ms", 100)
            self.at_most(f"restore of {own.size_text(size)} to the first read, longest", max(took),
                         "ms", 100)

    def scatter(self, export, size, written):
        """Writes units all over the volume. Where they are."""
        choose = random.Random(1)
        places = [choose.randrange(size // UNIT) * UNIT for _ in range(written // UNIT)]
        handle = self.connect(export)
        for place in places:
            handle.pwrite(choose.randbytes(UNIT), place)
        handle.flush()
        handle.shutdown()
        return places

    # ---- First reads ----

    def cold(self):
        """Through NBD, while nearly nothing is copied behind; beside it, what a read costs once the
        block is there. bench/repository/ measures the reader alone (copy)."""
        self.write_source()
        self.begin()
        volume, export = self.daemon.volume(self.form.size)
        self.copy_in(export)
        _, snapshot = self.snapshot(volume)
        self.completed(snapshot)
        self.drop_caches()
        _, export = self.restore(snapshot, own.MIB)
        handle = self.connect(export)
        choose = random.Random(2)
        units = choose.sample(range(self.form.size // UNIT), self.form.reads)
        cold, warm = [], []
        for unit in units:
            place = unit * UNIT + choose.randrange(UNIT // 4096) * 4096
            for times in (cold, warm):
                clock = Clock()
                handle.pread(4096, place)
                times.append(clock.ms() * 1000)
        handle.shutdown()
        self.row("first read of a cold 4-KiB block through NBD", statistics.median(cold), "us",
                 None, None)
        self.row("the same again", statistics.median(warm), "us", None, None)

    # ---- Upload and hydration ----

    def copy(self):
        self.reader_alone()
        self.write_source()
        self.begin()
        cp, up, down = [], [], []
        for _ in range(self.form.rounds):
            cp.append(self.copy_file())
            volume, export = self.daemon.volume(self.form.size)
            self.copy_in(export)
            clock = Clock()
            _, snapshot = self.snapshot(volume)
            self.completed(snapshot)
            up.append(clock.seconds())
            self.drop_caches()
            clock = Clock()
            restored, _ = self.restore(snapshot)
            self.hydrated(restored)
            down.append(clock.seconds())
            self.remove(volume)
            self.remove(restored)
        mib = self.form.size / own.MIB
        self.row("cp and fsync", mib / statistics.median(cp), "MiB/s", None, None)
        for what, times in (("upload", up), ("hydration", down)):
            self.row(what, mib / statistics.median(times), "MiB/s", None, None)
            by = statistics.median(c / t for c, t in zip(cp, times))
            self.row(f"{what}, by cp and fsync, medians by turns", by, "x", "at least 0.7",
                     by >= 0.7)

    def copy_file(self):
        run.settle_file(self.source)
        copy = self.source + ".copy"
        clock = Clock()
        clients.run(["cp", "--reflink=never", self.source, copy], PATIENCE)
        clients.run(["sync", copy], PATIENCE)
        took = clock.seconds()
        os.unlink(copy)
        return took

    def reader_alone(self):
        scratch = self.place.path("reader")
        shutil.rmtree(scratch, ignore_errors=True)
        os.makedirs(scratch)
        try:
            said = clients.run([self.opt.repository, scratch,
                                str(min(self.form.size, GIB) // own.MIB), "1"], PATIENCE)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        found = {name: float(value) for name, value in map(str.split, said.splitlines())}
        self.row("direct read of a frame", found["direct_read"], "us", None, None)
        self.row("first read of a cold 4-KiB block, by the repository's reader",
                 found["cold_read"], "us", None, None)
        self.at_most("that by the former, unpacking counted in",
                     found["cold_read"] / found["direct_read"], "x", 2)

    def rate(self):
        self.write_source()
        rate = self.form.rate
        self.begin("--snapshot-upload-rate", str(rate))
        volume, export = self.daemon.volume(self.form.size)
        self.copy_in(export)
        clock = Clock()
        _, snapshot = self.snapshot(volume)
        self.completed(snapshot)
        self.kept("upload", self.form.size / clock.seconds() / rate)
        clock = Clock()
        restored, _ = self.restore(snapshot, rate)
        self.hydrated(restored)
        self.kept("hydration", self.form.size / clock.seconds() / rate)

    def kept(self, what, ratio):
        self.row(f"{what} at a set rate of {self.form.rate // own.MIB} MiB/s, by it", ratio, "x",
                 "0.95 to 1.05", 0.95 <= ratio <= 1.05)

    # ---- Deletion ----

    def delete(self):
        self.begin()
        for size, written in ((GIB, 64 * own.MIB), (4 * TIB, self.form.size)):
            volume, export = self.daemon.volume(size)
            self.scatter(export, size, written)
            took = []
            for _ in range(self.form.rounds):
                _, snapshot = self.snapshot(volume)
                self.completed(snapshot)
                clock = Clock()
                self.daemon.ask("DELETE", f"/snapshots/{snapshot}")
                took.append(clock.ms())
            self.at_most(f"delete, of {own.size_text(size)}, longest", max(took), "ms", 100)

    # ---- Many ----

    def many(self):
        """Two volumes alike, and one of them has hundreds of snapshots. Random writes and reads."""
        self.begin()
        plain, snapped = self.daemon.volume(GIB), self.daemon.volume(GIB)
        for _, export in (plain, snapped):
            self.fill(export, 256 * own.MIB)
            for pattern in ("randwrite", "randread"):
                self.turn(pattern, export)
        rss, catalog = self.daemon.memory_mib(), self.catalog_bytes()
        handle = self.connect(snapped[1])
        clock = Clock()
        for n in range(self.form.many):
            handle.pwrite(random.randbytes(4096), n * UNIT % (256 * own.MIB))
            self.completed(self.snapshot(snapped[0])[1])
        handle.shutdown()
        took = clock.ms() / self.form.many
        self.row(f"a snapshot behind each of {self.form.many} small writes, each completed", took,
                 "ms", None, None)
        self.row("catalog, for each snapshot",
                 (self.catalog_bytes() - catalog) / self.form.many / KIB, "KiB", None, None)
        self.at_most(f"memory that {self.form.many} snapshots added",
                     self.daemon.memory_mib() - rss, "MiB", 16)
        for pattern in ("randwrite", "randread"):
            self.against(pattern, plain[1], snapped[1])

    def against(self, pattern, plain, snapped):
        turns = {plain: [], snapped: []}
        for _ in range(self.form.turns):
            for export, found in turns.items():
                found.append(self.turn(pattern, export))
        for n, what in enumerate(("server CPU", "device I/Os")):
            ratios = [b[n] / a[n] for a, b in zip(turns[plain], turns[snapped]) if a[n]]
            if ratios:
                self.at_most(f"{pattern}: {what} for each, {self.form.many} snapshots by none",
                             statistics.median(ratios), "x", 1.05)

    def turn(self, pattern, export):
        """CPU time and device operations for each I/O."""
        before = device_ios(self.place.directory)
        found = self.load(export, "--pattern", pattern, "--depth", "32", "--working-set",
                          str(256 * own.MIB), "--runtime", str(self.form.turn_seconds))
        after = device_ios(self.place.directory)
        return (found["server_cpu_us_per_io"],
                (after - before) / found["ios"] if before is not None else 0)

    def catalog_bytes(self):
        folder = self.daemon.data_dir()
        return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)
                   if name == "catalog")

    # ---- Increments ----

    def increment(self):
        self.write_source()
        self.begin()
        volume, export = self.daemon.volume(self.form.size)
        self.copy_in(export)
        first = self.completed(self.snapshot(volume)[1])
        choose = random.Random(3)
        units = self.form.size // UNIT
        changed = choose.sample(range(units), max(units // 100, 1))
        handle = self.connect(export)
        for unit in changed:
            handle.pwrite(choose.randbytes(UNIT), unit * UNIT)
        handle.flush()
        handle.shutdown()
        second = self.completed(self.snapshot(volume)[1])
        self.row("rewritten in 512-KiB blocks", 100 * len(changed) / units, "%", None, None)
        self.row("stored by the second snapshot, by the first",
                 100 * second["stored_bytes"] / first["stored_bytes"], "%", "about 1",
                 second["stored_bytes"] <= 1.1 * len(changed) / units * first["stored_bytes"])

    # ---- The whole ----

    def measure(self):
        self.need(12 * self.form.size + 3 * self.form.busy)
        wanted = self.opt.parts or self.PARTS
        for name in self.PARTS:
            if name not in wanted:
                continue
            try:
                {"restore": self.restore_part}.get(name, getattr(self, name))()
            except (*own.ERRORS, nbd.Error, OSError) as e:
                self.rows.append({"what": name, "error": self.broken(name, e)})
            self.end()
            table.write_csv(os.path.join(self.opt.out, "repository.csv"), COLUMNS, self.rows)
        return self.text()

    def text(self):
        form = self.form
        out = ["## Snapshots", "", own.facts(self.place.directory), "",
               f"Copied: {own.size_text(form.size)} that do not compress. Medians of {form.rounds} "
               f"rounds, {form.cuts} snapshots of a busy volume, {form.turns} turns of "
               f"{form.turn_seconds} s beside none.", ""]
        good = [r for r in self.rows if "error" not in r]
        lines = [(r["what"], f"{digits(r['value'])} {r['unit']}", r["target"] or "",
                  r["reached"]) for r in good]
        out += own.markdown(("what", "measured", "target", ""), lines) if lines else []
        out += [""] + [f"- FAILED {r['error']}" for r in self.rows if "error" in r]
        return "\n".join(out).rstrip() + "\n"

    def main(self):
        try:
            return super().main()
        finally:
            for leftover in (self.source, self.source + ".copy"):
                if os.path.exists(leftover):
                    os.unlink(leftover)


def digits(value):
    return table.number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)


if __name__ == "__main__":
    sys.exit(Repository(options()).main())
