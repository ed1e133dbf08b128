#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-map`: random 4-KiB blocks written with a map that does not fit into its memory.

A volume is written at random, as many bytes as it has, once with memory for all of its map and once
with 1/512 of its size. The goal is half the speed. See bench/README.md.
"""

import argparse
import os
import sys

import own
import run
import table

RATIO = 512  # bytes of the volume for each of the map's memory: 64 MiB for 32 GiB
RESIDENT = 16  # the map of random blocks takes less than so much of it
COLUMNS = ("map_memory_mib", "written_mib", "write_iops", "write_p99_us", "write_server_cpu_us",
           "read_iops", "read_p99_us", "wa_map", "rss_mib", "error")
GOAL = 0.5


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    own.options(p)
    p.add_argument("--size", default=os.environ.get("BENCH_MAP_SIZE", "32GiB"),
                   type=run.parse_size, help="of the volume, and written")
    p.add_argument("--seconds", default=10, type=float, help="of reading, behind it")
    p.add_argument("--depth", default=32, type=int, help="requests in flight")
    opt = p.parse_args()
    if opt.quick:
        opt.size, opt.seconds = 4 << 30, 2
    if opt.size < RATIO * 8 * own.MIB:
        p.error("the size is at least 4GiB: a map has at least 8 MiB")
    return opt


class Map(own.Bench):
    section = "map"

    def cell(self, memory):
        opt = self.opt
        row = {"map_memory_mib": memory // own.MIB, "written_mib": opt.size // own.MIB}
        self.begin("--threads", "1", "--map-memory", str(memory))
        try:
            volume, export = self.daemon.volume(opt.size)
            wrote = self.load(export, "--pattern", "randwrite", "--depth", str(opt.depth), "--ios",
                              str(opt.size // 4096), seconds=7200)
            read = self.load(export, "--pattern", "randread", "--depth", str(opt.depth),
                             "--runtime", str(opt.seconds))
            counters = self.daemon.counters(volume)
            row.update({
                "write_iops": wrote["iops"], "write_p99_us": wrote["latency_us"]["p99"],
                "write_server_cpu_us": wrote["server_cpu_us_per_io"], "read_iops": read["iops"],
                "read_p99_us": read["latency_us"]["p99"],
                "wa_map": counters["map_bytes"] / max(counters["written_bytes"], 1),
                "rss_mib": self.daemon.memory_mib("VmHWM:")})
            run.say(f"{own.size_text(memory)} of map: {wrote['iops']:.0f} writes a second, "
                    f"{read['iops']:.0f} reads, {row['rss_mib']:.0f} MiB resident at most")
        except own.ERRORS as e:
            row["error"] = self.broken(f"{own.size_text(memory)} of map", e)
        self.end()
        return row

    def measure(self):
        opt = self.opt
        self.need(3 * opt.size)
        rows = [self.cell(memory) for memory in (opt.size // RESIDENT, opt.size // RATIO)]
        table.write_csv(os.path.join(opt.out, "map.csv"), COLUMNS, rows)
        return self.text(rows)

    def text(self, rows):
        out = ["## A map larger than its memory", "", own.facts(self.place.directory), "",
               f"A volume of {own.size_text(self.opt.size)}, {own.size_text(self.opt.size)} written "
               f"to it in random blocks of 4 KiB at queue depth {self.opt.depth}, one thread; the "
               "first row has memory for all of the map. Resident memory is the process's, at most.",
               ""]
        head = ("map-memory", "writes/s", "x resident", "write p99 us", "server CPU us/IO",
                "map written, bytes/byte", "reads/s", "x resident", "read p99 us", "resident MiB")
        lines = []
        first = rows[0]
        for row in rows:
            if "error" in row:
                continue
            ratios = [row[k] / first[k] if "error" not in first else None
                      for k in ("write_iops", "read_iops")]
            lines.append((own.size_text(row["map_memory_mib"] * own.MIB),
                          table.number(row["write_iops"]), table.number(ratios[0], 2),
                          table.number(row["write_p99_us"]),
                          table.number(row["write_server_cpu_us"], 1),
                          table.number(row["wa_map"], 2), table.number(row["read_iops"]),
                          table.number(ratios[1], 2), table.number(row["read_p99_us"]),
                          table.number(row["rss_mib"])))
        out += own.markdown(head, lines) if lines else []
        out += [""] + [f"- FAILED {row['error']}" for row in rows if "error" in row]
        if not any("error" in row for row in rows):
            reached = rows[1]["write_iops"] / first["write_iops"]
            out += [f"Goal: {GOAL} of the resident map's writes: {reached:.2f}, "
                    f"{'reached' if reached >= GOAL else 'not reached'}."]
        return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(Map(options()).main())
