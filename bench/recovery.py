#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-recovery`: how long a start takes behind SIGKILL.

By the size of the volume, how much was written to it, and how: the log behind the last checkpoint is
replayed, and its length is bounded. See bench/README.md.
"""

import argparse
import os
import statistics
import sys
import time

import own
import run
import table

GIB = 1 << 30
TIB = 1 << 40
# Size of the volume, bytes written, pattern.
CELLS = ((64 * GIB, 64 * own.MIB, "random"), (64 * GIB, 256 * own.MIB, "random"),
         (64 * GIB, GIB, "random"), (64 * GIB, 4 * GIB, "random"), (4 * TIB, 64 * own.MIB, "random"),
         (4 * TIB, GIB, "random"), (4 * TIB, 4 * GIB, "random"), (4 * TIB, 32 * GIB, "sequential"),
         (4 * TIB, 32 * GIB, "random"))
QUICK = ((GIB, 64 * own.MIB, "random"), (GIB, 256 * own.MIB, "sequential"),
         (4 * TIB, 256 * own.MIB, "random"))
COLUMNS = ("volume_gib", "written_mib", "pattern", "write_iops", "ready_ms", "first_read_ms",
           "clean_ms", "replayed", "rss_mib", "error")
GOAL_MS, STRETCH_MS = 2000, 500
# Random blocks of a large volume go to so much of it: the map is as that of a file system's.
SPREAD = 64 * GIB


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    own.options(p)
    p.add_argument("--most", default=os.environ.get("BENCH_RECOVERY_MOST", "32GiB"),
                   type=run.parse_size, help="leave out cells that write more")
    p.add_argument("--rounds", default=3, type=int, help="kills in each cell; medians are shown")
    return p.parse_args()


class Recovery(own.Bench):
    section = "recovery"

    def write(self, export, size, written, pattern):
        """Kills the daemon right behind the last answer. How fast it was written."""
        if pattern == "sequential":
            found = self.load(export, "--pattern", "write", "--block-size", "128KiB", "--depth",
                              "16", "--ios", str(written // (128 << 10)), seconds=3600)
        else:
            found = self.load(export, "--pattern", "randwrite", "--depth", "128", "--working-set",
                              str(min(size, SPREAD)), "--ios", str(written // 4096), seconds=3600)
        return found["iops"]

    def start(self, export):
        """Milliseconds from the start of the process until it is ready, and until a read of the
        volume was answered."""
        begin = time.monotonic()
        self.daemon.start()
        ready = time.monotonic()
        self.load(export, "--pattern", "randread", "--depth", "1", "--ios", "1")
        return (ready - begin) * 1000, (time.monotonic() - begin) * 1000

    def cell(self, size, written, pattern):
        row = {"volume_gib": size // GIB, "written_mib": written // own.MIB, "pattern": pattern}
        what = f"{own.size_text(written)} {pattern} in {own.size_text(size)}"
        self.begin()
        try:
            volume, export = self.daemon.volume(size)
            row["write_iops"] = self.write(export, size, written, pattern)
            starts, replayed = [], []
            for number in range(self.opt.rounds):
                if number > 0:  # as much as a log can be long, unless that is more than there was
                    self.write(export, size, min(written, GIB), pattern)
                self.daemon.kill()
                starts.append(self.start(export))
                replayed.append(self.daemon.counters(volume)["replayed"])
            row["ready_ms"] = statistics.median(s[0] for s in starts)
            row["first_read_ms"] = statistics.median(s[1] for s in starts)
            row["replayed"] = statistics.median(replayed)
            row["rss_mib"] = self.daemon.memory_mib()
            self.daemon.stop()
            row["clean_ms"] = self.start(export)[1]
            run.say(f"{what}: ready in {row['ready_ms']:.0f} ms, first read after "
                    f"{row['first_read_ms']:.0f} ms, {row['replayed']:.0f} records replayed; "
                    f"after a clean end {row['clean_ms']:.0f} ms")
        except own.ERRORS as e:
            row["error"] = self.broken(what, e)
        self.end()
        return row

    def measure(self):
        opt = self.opt
        cells = [c for c in (QUICK if opt.quick else CELLS) if c[1] <= opt.most]
        self.need(2 * max(c[1] for c in cells))
        rows = []
        for cell in cells:
            rows.append(self.cell(*cell))
            table.write_csv(os.path.join(opt.out, "recovery.csv"), COLUMNS, rows)
        return self.text(rows)

    def text(self, rows):
        out = ["## Recovery", "", own.facts(self.place.directory), "",
               "From the start of the process after SIGKILL under load until it is ready, and until "
               "a read of the volume was answered; medians of "
               f"{self.opt.rounds} kills. Random is 4 KiB at queue depth 128 over at most "
               f"{own.size_text(SPREAD)} of the volume, sequential is 128 KiB at 16.", ""]
        head = ("volume", "written", "pattern", "records replayed", "ready ms", "first read ms",
                "after a clean end ms", "resident MiB")
        good = [r for r in rows if "error" not in r]
        lines = [(own.size_text(r["volume_gib"] * GIB), own.size_text(r["written_mib"] * own.MIB),
                  r["pattern"], table.number(r["replayed"]), table.number(r["ready_ms"]),
                  table.number(r["first_read_ms"]), table.number(r["clean_ms"]),
                  table.number(r["rss_mib"])) for r in good]
        out += own.markdown(head, lines) if lines else []
        out += [""] + [f"- FAILED {r['error']}" for r in rows if "error" in r]
        largest = [r for r in good if r["volume_gib"] == 4096]
        if largest:
            worst = max(r["first_read_ms"] for r in largest)
            verdict = ("stretch reached" if worst <= STRETCH_MS else
                       "reached" if worst <= GOAL_MS else "not reached")
            out += [f"Goal: a 4-TiB volume within {GOAL_MS} ms, stretch {STRETCH_MS} ms: "
                    f"{worst:.0f} ms at most, {verdict}."]
        return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(Recovery(options()).main())
