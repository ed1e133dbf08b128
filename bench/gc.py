#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-gc`: what garbage collection costs, at given fullness of a store.

For each cell a volume is made in a store that it fills to so many percent, filled, and overwritten
three times at random; then random writes are measured. The yardstick is the same volume in a store
with plenty of room, before anything has to be collected. See bench/README.md.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import clients
import run
import servers
import table

MIB = 1024 * 1024
SEGMENT = 8 * MIB
DEPTH = 32
SKEWS = {"uniform": 0, "80/20": 80}
# What a cell at 70 % is held against: target and stretch.
GOAL_PERCENT = "70"
GOALS = (("wa", "write amplification", {"uniform": (3.0, 2.5), "80/20": (2.2, 1.8)}, "at most", ""),
         ("rate_ratio", "rate, to the fresh one", (0.4, 0.6), "at least", " x"),
         ("p999_ratio", "p99.9, to the fresh one", (3, 2), "at most", " x"),
         ("silence_ms", "longest silence", (50, 20), "at most", " ms"))
TABLE = (("pattern", "pattern", 0), ("full_percent", "full, %", 0), ("wa", "write amplification", 2),
         ("wa_log", "log", 2), ("wa_moved", "moved", 2), ("wa_map", "map", 2),
         ("checkpoints", "checkpoints", 0), ("iops", "IOPS", 0), ("iops_fresh", "fresh IOPS", 0),
         ("rate_ratio", "x fresh", 2), ("p50_us", "p50 us", 0), ("p999_us", "p99.9 us", 0),
         ("p999_ratio", "x fresh", 1), ("silence_ms", "silence ms", 0),
         ("server_cpu_us", "server CPU us/IO", 1))
COLUMNS = ("pattern", "full_percent", "written_mib", "wa", "wa_log", "wa_moved", "wa_map", "checkpoints", "iops",
           "iops_fresh", "rate_ratio", "p50_us", "p999_us", "p999_fresh_us", "p999_ratio",
           "silence_ms", "silence_fresh_ms", "server_cpu_us", "error")


class Volumed(servers.Volumed):
    """With a store of a given size."""

    def __init__(self, place, volumectl):
        super().__init__(place)
        self.volumectl = os.path.abspath(volumectl)
        self.store_size = 0

    def command(self):
        command = super().command()
        return command + ["--store-max-size", str(self.store_size)] if self.store_size else command

    def ask(self, *words):
        socket = os.path.join(self.data_dir(), "volumed.sock")
        return subprocess.run([self.volumectl, "--socket", socket, *words], check=True,
                              capture_output=True, text=True, timeout=30).stdout

    def counters(self):
        volume = self.ask("volume", "list", "--quiet").strip()
        return json.loads(self.ask("volume", "show", volume, "--json"))["counters"]


def options():
    def env(name, default):
        return os.environ.get("BENCH_" + name, default)

    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Each option but the programs' can be given as BENCH_<NAME> in the environment.")
    p.add_argument("--nbdload", default="build/release/bench/nbdload", help="the program")
    p.add_argument("--volumed", default="build/bin/volumed", help="the program")
    p.add_argument("--volumectl", default="build/bin/volumectl", help="the program")
    p.add_argument("--dir", default=env("DIR", "build/bench-data"), help="on the disk to measure")
    p.add_argument("--out", default=env("OUT", "build/bench"), help="for tables and logs")
    p.add_argument("--size", default=env("GC_SIZE", "4GiB"), type=run.parse_size,
                   help="of the volume")
    p.add_argument("--seconds", default=env("SECONDS", "10"), type=float, help="measured")
    p.add_argument("--full", default=env("GC_FULL", "50,70,80,90"), type=run.names,
                   help="percent of the store that live")
    p.add_argument("--patterns", default=env("GC_PATTERNS", "uniform,80/20"), type=run.names,
                   help="some of: " + ",".join(SKEWS))
    p.add_argument("--overwrites", default=env("GC_OVERWRITES", "3"), type=float,
                   help="of the whole volume, before it is measured")
    p.add_argument("--publish", default=env("PUBLISH", ""), metavar="FILE",
                   help="a Markdown file whose table between the bench-gc markers is replaced")
    p.add_argument("--quick", action="store_true", help="a minute: 1 GiB, 70 %% full, overwritten twice")
    opt = p.parse_args()
    if opt.quick:
        opt.size, opt.seconds, opt.full, opt.overwrites = 1 << 30, 3, ["70"], 2
    return opt


def store_size(size, percent):
    """Whole groups of segments have heads of 2 MiB: nearly nothing, but it is not for data."""
    segments = -(-size * 100 // (int(percent) * SEGMENT))
    return MIB + segments * SEGMENT + -(-segments // 126) * MIB


def reached(value, goal, at_most):
    target, stretch = goal
    good = (lambda limit: value <= limit) if at_most else (lambda limit: value >= limit)
    if good(stretch):
        return "stretch reached"
    if good(target):
        return "reached"
    return f"not reached: {value / target:.1f} times the target"


def goals(rows):
    out = ["| pattern | what | target | stretch | reached | |", "|---|---|---:|---:|---:|---|"]
    for row in rows:
        for column, what, goal, word, unit in GOALS:
            if row["full_percent"] != GOAL_PERCENT or column not in row:
                continue
            goal = goal[row["pattern"]] if isinstance(goal, dict) else goal
            out.append(f"| {row['pattern']} | {what}, {word} | {goal[0]}{unit} | {goal[1]}{unit} | "
                       f"{row[column]:.2f}{unit} | {reached(row[column], goal, word == 'at most')} |")
    return out


def cell_text(row, column, digits):
    value = row.get(column)
    return value if isinstance(value, str) else table.number(value, digits)


def markdown(opt, rows):
    size = f"{opt.size // MIB} MiB"
    out = [f"Volume of {size}, overwritten {opt.overwrites:g} times, then measured for "
           f"{opt.seconds:g} s with queue depth {DEPTH}; commit "
           f"{table.first_line('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}.", ""]
    out += goals(rows)
    out += ["", "| " + " | ".join(head for _, head, _ in TABLE) + " |",
            "|---|" + "---:|" * (len(TABLE) - 1)]
    out += ["| " + " | ".join(cell_text(row, column, digits) for column, _, digits in TABLE) + " |"
            for row in rows]
    return "\n".join(out) + "\n"


class Bench:
    def __init__(self, opt):
        self.opt = opt
        directory = os.path.abspath(opt.dir)
        self.place = servers.Place(directory, "", opt.size,
                                   os.path.abspath(os.path.join(opt.out, "logs")), 0,
                                   os.path.abspath(opt.volumed))
        self.server = Volumed(self.place, opt.volumectl)
        self.rows = []

    def load(self, skew, *words):
        command = [self.opt.nbdload, "--json", "--pattern", "randwrite", "--depth", str(DEPTH),
                   "--working-set", str(self.opt.size), "--server-pid", str(self.server.pid()),
                   "--seed", str(time.monotonic_ns() & 0xffffff), *words, self.server.address()]
        if skew:
            command += ["--skew", str(skew)]
        return json.loads(clients.run(command, 1200))

    def begin(self, size):
        """A new store with the volume in it, filled in sequence."""
        self.end()
        self.server.store_size = size
        self.server.start()
        clients.fill(self.opt.nbdload, self.server, self.opt.size)

    def give_up(self):
        try:
            self.server.stop()
        except servers.ServerError as e:
            run.say(f"note: {e}")

    def end(self):
        self.server.stop()
        shutil.rmtree(self.server.data_dir(), ignore_errors=True)

    def fresh(self, skew):
        """Plenty of room: as many blocks as a third of the volume has, and nothing to collect."""
        self.begin(0)
        before = self.server.counters()
        found = self.load(skew, "--ios", str(self.opt.size // 3 // 4096))
        if self.server.counters()["moved_bytes"] > before["moved_bytes"]:
            run.say("note: garbage was collected in the fresh store, too")
        return found

    def aged(self, skew, percent):
        self.begin(store_size(self.opt.size, percent))
        self.load(skew, "--ios", str(int(self.opt.overwrites * self.opt.size) // 4096))
        before = self.server.counters()
        found = self.load(skew, "--runtime", str(self.opt.seconds))
        after = self.server.counters()
        return found, {name: after[name] - before[name] for name in after}

    def cell(self, pattern, percent, fresh):
        row = {"pattern": pattern, "full_percent": percent}
        self.rows.append(row)
        try:
            found, spent = self.aged(SKEWS[pattern], percent)
        except (servers.ServerError, clients.ClientError, subprocess.SubprocessError) as e:
            row["error"] = str(e)
            run.say(f"{pattern}, {percent} % full: FAILED: {e}")
            self.give_up()
            return
        written = max(spent["written_bytes"], 1)
        row["written_mib"] = written // MIB
        for name in ("log", "moved", "map"):
            row["wa_" + name] = spent[{"log": "logged"}.get(name, name) + "_bytes"] / written
        row["checkpoints"] = spent["checkpoints"]
        row["wa"] = row["wa_log"] + row["wa_moved"] + row["wa_map"]
        row.update({
            "iops": found["iops"], "iops_fresh": fresh["iops"],
            "rate_ratio": found["iops"] / fresh["iops"],
            "p50_us": found["latency_us"]["p50"], "p999_us": found["latency_us"]["p999"],
            "p999_fresh_us": fresh["latency_us"]["p999"],
            "p999_ratio": found["latency_us"]["p999"] / fresh["latency_us"]["p999"],
            "silence_ms": found["longest_silence_us"] / 1000,
            "silence_fresh_ms": fresh["longest_silence_us"] / 1000,
            "server_cpu_us": found["server_cpu_us_per_io"]})
        run.say(f"{pattern}, {percent} % full: write amplification {row['wa']:.2f} "
                f"(log {row['wa_log']:.2f}, moved {row['wa_moved']:.2f}, map {row['wa_map']:.2f}; "
                f"{row['checkpoints']} checkpoints in {row['written_mib']} MiB); "
                f"{row['iops']:.0f} IOPS, {row['rate_ratio']:.2f} of fresh; "
                f"p99.9 {row['p999_us'] / 1000:.1f} ms, {row['p999_ratio']:.1f} times fresh; "
                f"silent for {row['silence_ms']:.0f} ms, fresh {row['silence_fresh_ms']:.0f} ms")

    def run(self):
        os.makedirs(self.place.logs, exist_ok=True)
        os.makedirs(self.place.directory, exist_ok=True)
        for pattern in self.opt.patterns:
            fresh = self.fresh(SKEWS[pattern])
            run.say(f"{pattern}, fresh: {fresh['iops']:.0f} IOPS, p99.9 "
                    f"{fresh['latency_us']['p999'] / 1000:.1f} ms")
            for percent in self.opt.full:
                self.cell(pattern, percent, fresh)
                table.write_csv(os.path.join(self.opt.out, "gc.csv"), COLUMNS, self.rows)
        if self.opt.publish:
            table.publish(self.opt.publish, markdown(self.opt, self.rows), "bench-gc")
        run.say(f"written: {self.opt.out}/gc.csv")
        return 1 if any("error" in row for row in self.rows) else 0


def main():
    opt = options()
    if not all(p in SKEWS for p in opt.patterns):
        run.fail(f"there are the patterns {', '.join(SKEWS)}")
    if not all(p.isdigit() and 10 <= int(p) <= 95 for p in opt.full):
        run.fail("fullness is from 10 to 95 percent")
    signal.signal(signal.SIGTERM, run.interrupted)
    bench = Bench(opt)
    try:
        return bench.run()
    except KeyboardInterrupt:
        return 130
    finally:
        bench.give_up()
        bench.end()


if __name__ == "__main__":
    sys.exit(main())
