#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""`make bench-many`: many volumes on one store.

What a volume with queue depth 1 keeps while others are busy, what making and deleting volumes costs
it, how long a start takes, and two busy volumes against one. See bench/README.md.
"""

import argparse
import json
import subprocess
import sys
import time

import clients
import own
import run
import table

GIB = 1 << 30
TIB = 1 << 40
PER_INSTANCE = 10  # volumes attached to one instance
# What the others do: nbdload's words, and how a reader knows it.
LOADS = (
    ("random reads, QD32", ("--pattern", "randread", "--depth", "32")),
    ("random writes, QD128", ("--pattern", "randwrite", "--depth", "128")),
    ("1 MiB writes, QD8", ("--pattern", "write", "--block-size", "1MiB", "--depth", "8")),
)
ONE = (("reads", "randread"), ("writes", "randwrite"))
COLUMNS = ("others", "one", "busy", "busy_of_loop", "alone_iops", "beside_iops", "share",
           "share_of_all", "p50_us", "p99_us", "error")
GOAL = 0.5


def options():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    own.options(p)
    p.add_argument("--volumes", default=1000, type=int, help="on the store")
    p.add_argument("--busy", default="2,8,64", type=run.names, help="how many, one of them with QD1")
    p.add_argument("--seconds", default=4, type=float, help="measured in each cell")
    p.add_argument("--working-set", default="64MiB", type=run.parse_size, help="of each")
    p.add_argument("--threads", default=2, type=int, help="of the daemon: loops")
    opt = p.parse_args()
    if opt.quick:
        opt.volumes, opt.busy, opt.seconds, opt.working_set = 100, ["2", "8"], 1, 16 * own.MIB
    opt.busy = sorted(int(n) for n in opt.busy)
    if not opt.busy or opt.busy[0] < 2 or opt.busy[-1] > opt.volumes:
        p.error("at least 2 volumes are busy, and no more than there are")
    return opt


class Many(own.Bench):
    section = "many"

    def __init__(self, opt):
        super().__init__(opt)
        self.volumes = []
        self.exports = []
        self.others = []  # processes
        self.complaints = []

    # ---- The store ----

    def make(self):
        opt = self.opt
        begin = time.monotonic()
        self.volumes = [self.daemon.create(GIB) for _ in range(opt.volumes)]
        took = time.monotonic() - begin
        for number in range(opt.busy[-1]):
            if number % PER_INSTANCE == 0:
                instance = self.daemon.instance(f"bench-{number}")
            self.exports.append(self.daemon.attach(self.volumes[number], instance))
            self.fill(self.exports[-1], opt.working_set)
        run.say(f"{opt.volumes} volumes made, {opt.volumes / took:.0f} a second; "
                f"{len(self.exports)} attached and filled")
        return opt.volumes / took

    def start_up(self):
        """Seconds after SIGKILL and after a clean end."""
        times = []
        for end in (self.daemon.kill, self.daemon.stop):
            end()
            begin = time.monotonic()
            self.daemon.start()
            times.append(time.monotonic() - begin)
            self.load(self.exports[0], "--pattern", "randread", "--depth", "1", "--ios", "1")
        run.say(f"started in {times[0]:.2f} s after SIGKILL, in {times[1]:.2f} s after a clean end; "
                f"{self.daemon.memory_mib():.0f} MiB resident")
        return times

    # ---- Shares ----

    def one(self, pattern, export=None, seconds=None):
        return self.load(export or self.exports[0], "--pattern", pattern, "--depth", "1",
                         "--runtime", str(seconds or self.opt.seconds), "--warmup", "0.5",
                         "--working-set", str(self.opt.working_set))

    def start_others(self, words, exports):
        for export in exports:
            command = self.command(export, *words, "--working-set", str(self.opt.working_set),
                                   "--runtime", "3600")
            self.others.append(subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                                text=True))
        time.sleep(0.5 + len(exports) / 100)

    def stop_others(self):
        for process in self.others:
            process.terminate()
        for process in self.others:
            process.communicate()
        self.others = []


    def share(self, name, words, busy, kind, pattern, alone):
        per_loop = -(-busy // self.opt.threads)
        row = {"others": name, "one": kind, "busy": busy, "busy_of_loop": per_loop}
        try:
            self.start_others(words, self.exports[1:busy])
            beside = self.one(pattern)
            dead = [p for p in self.others if p.poll() is not None]
            if dead:
                raise clients.ClientError("another's load ended: " + dead[0].stderr.read().strip())
            row.update({"alone_iops": alone["iops"], "beside_iops": beside["iops"],
                        "share": beside["iops"] * per_loop / alone["iops"],
                        "share_of_all": beside["iops"] * busy / alone["iops"],
                        "p50_us": beside["latency_us"]["p50"],
                        "p99_us": beside["latency_us"]["p99"]})
            run.say(f"{kind} at queue depth 1 beside {busy - 1} with {name}: "
                    f"{beside['iops']:.0f} IOPS, alone {alone['iops']:.0f}, "
                    f"{row['share']:.2f} of its share")
        except own.ERRORS as e:
            row["error"] = self.broken(f"{kind} beside {busy - 1} with {name}", e)
            self.complaints.append(row["error"])
        finally:
            self.stop_others()
        return row

    def shares(self):
        rows = []
        for kind, pattern in ONE:
            for name, words in LOADS:
                for busy in self.opt.busy:
                    alone = self.one(pattern)
                    rows.append(self.share(name, words, busy, kind, pattern, alone))
        return rows

    # ---- Making and deleting ----

    def churn(self, until, pause):
        """Makes volumes of 64 TiB, and deletes them again."""
        made = 0
        spare = []
        while time.monotonic() < until:
            spare.append(self.daemon.create(64 * TIB))
            made += 1
            time.sleep(pause)
            if len(spare) > 4:
                self.daemon.ask("DELETE", f"/volumes/{spare.pop(0)}")
        for volume in spare:
            self.daemon.ask("DELETE", f"/volumes/{volume}")
        return made

    def disturbance(self):
        """A reader alone, and beside volumes that are made and deleted."""
        rows = []
        size = 8 * GIB if not self.opt.quick else 256 * own.MIB
        large, export = self.daemon.volume(size)
        self.fill(export, size)
        self.daemon.ask("DELETE", f"/volumes/{large}/attachments")
        quiet = self.one("randread")
        rows.append(("nothing", quiet))
        for what in ("volumes of 64 TiB made and deleted at leisure",
                     "volumes of 64 TiB made and deleted as fast as it goes",
                     f"a volume with {own.size_text(size)} of data deleted"):
            reader = subprocess.Popen(
                self.command(self.exports[0], "--pattern", "randread", "--depth", "1", "--runtime",
                             str(self.opt.seconds), "--warmup", "0.2", "--working-set",
                             str(self.opt.working_set)),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.others.append(reader)
            begin = time.monotonic()
            if what.startswith("volumes"):
                made = self.churn(begin + 0.2 + self.opt.seconds,
                                  0.05 if what.endswith("leisure") else 0)
                what += f", {made / self.opt.seconds:.0f} a second"
            else:
                time.sleep(0.3)
                begin = time.monotonic()
                self.daemon.ask("DELETE", f"/volumes/{large}")
                what += f", answered in {(time.monotonic() - begin) * 1000:.0f} ms"
            out, complaint = reader.communicate()
            self.others.remove(reader)
            if reader.returncode:
                raise clients.ClientError(complaint.strip())
            rows.append((what, json.loads(out)))
            run.say(f"reads at queue depth 1 beside {what}: p99 "
                    f"{rows[-1][1]['latency_us']['p99']:.0f} us, with nothing "
                    f"{quiet['latency_us']['p99']:.0f} us")
        return rows

    # ---- Two against one ----

    def two(self):
        """Each pattern for one volume, and for two at a time: IOPS and CPU time of each."""
        rows = []
        for pattern in ("randread", "randwrite"):
            words = ("--pattern", pattern, "--depth", "32", "--runtime", str(self.opt.seconds),
                     "--warmup", "0.5", "--working-set", str(self.opt.working_set))
            alone = self.load(self.exports[0], *words)
            rows.append((pattern, 1, [alone], alone["server_cpu_us_per_io"]))
            both = [subprocess.Popen(self.command(e, "--server-pid", str(self.daemon.pid()), *words),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
                    for e in self.exports[:2]]
            self.others = both
            found = [json.loads(p.communicate()[0]) for p in both]
            self.others = []
            # Each counts all of the server's time.
            cpu = 1 / sum(1 / max(f["server_cpu_us_per_io"], 0.01) for f in found)
            rows.append((pattern, 2, found, cpu))
            run.say(f"{pattern} QD32: one volume {alone['iops']:.0f} IOPS, each of two "
                    f"{' and '.join(str(round(f['iops'])) for f in found)}")
        return rows

    # ---- All of it ----

    def part(self, what, function):
        try:
            return function()
        except own.ERRORS as e:
            self.complaints.append(self.broken(what, e))
            self.stop_others()
            return None

    def measure(self):
        opt = self.opt
        self.need(opt.busy[-1] * opt.working_set * 4 + 24 * GIB if not opt.quick else 4 * GIB)
        try:
            self.begin("--threads", str(opt.threads))
            rate = self.make()
            times = self.part("start", self.start_up)
            two = self.part("two volumes", self.two)
            disturbance = self.part("making and deleting", self.disturbance)
            rows = self.shares()
            table.write_csv(f"{opt.out}/many.csv", COLUMNS, rows)
            return self.text(rate, times, two, disturbance, rows)
        finally:
            self.stop_others()

    def text(self, rate, times, two, disturbance, rows):
        opt = self.opt
        out = ["## Many volumes", "", own.facts(self.place.directory), "",
               f"{opt.volumes} volumes on one store, {opt.threads} threads; they were made at "
               f"{rate:.0f} a second."]
        if times:
            out += [f"With {len(self.exports)} of them attached the daemon was ready {times[0]:.2f} s "
                    f"after SIGKILL, {times[1]:.2f} s after a clean end."]
        out += self.share_text([r for r in rows if "error" not in r])
        if disturbance:
            out += ["", "A volume's random reads at queue depth 1, beside:", ""]
            out += own.markdown(
                ("beside", "IOPS", "p50 us", "p99 us", "p99.9 us", "longest silence ms"),
                [(what, table.number(f["iops"]), table.number(f["latency_us"]["p50"]),
                  table.number(f["latency_us"]["p99"]), table.number(f["latency_us"]["p999"]),
                  table.number(f["longest_silence_us"] / 1000, 1)) for what, f in disturbance])
        if two:
            out += ["", "One busy volume against two, 4 KiB at queue depth 32; the clients share the "
                    "cores with the server:", ""]
            out += own.markdown(
                ("load", "volumes", "IOPS each", "IOPS in all", "p99 us", "server CPU us/IO",
                 "client CPU us/IO"),
                [(pattern, str(n), " ".join(str(round(f["iops"])) for f in found) if n == 1 else
                  " and ".join(str(round(f["iops"])) for f in found),
                  table.number(sum(f["iops"] for f in found)),
                  table.number(max(f["latency_us"]["p99"] for f in found)),
                  table.number(cpu, 1),
                  table.number(max(f["client_cpu_us_per_io"] for f in found), 1))
                 for pattern, n, found, cpu in two])
        out += [""] + [f"- FAILED {text}" for text in self.complaints]
        return "\n".join(out).rstrip() + "\n"

    def share_text(self, rows):
        if not rows:
            return []
        out = ["", "What a volume keeps at queue depth 1, 4 KiB. A share is its lone IOPS divided by "
               "the busy volumes on its loop, and the clients of all run on the same cores:", ""]
        out += own.markdown(
            ("one", "others", "busy", "on its loop", "alone IOPS", "beside IOPS", "of its share",
             "by all busy", "p99 us"),
            [(r["one"], r["others"], str(r["busy"]), str(r["busy_of_loop"]),
              table.number(r["alone_iops"]), table.number(r["beside_iops"]),
              table.number(r["share"], 2), table.number(r["share_of_all"], 2),
              table.number(r["p99_us"])) for r in rows])
        worst = min(r["share"] for r in rows)
        return out + ["", f"Goal: {GOAL} of its share: {worst:.2f} at least, "
                      f"{'reached' if worst >= GOAL else 'not reached'}; by all that are busy on the "
                      f"disk, on whatever loop: {min(r['share_of_all'] for r in rows):.2f}."]


if __name__ == "__main__":
    sys.exit(Many(options()).main())
