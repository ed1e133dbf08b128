# SPDX-License-Identifier: Apache-2.0
"""The two clients, nbdload and fio, and what each measures in one turn."""

import json
import os
import subprocess
import tempfile

# Beyond the time that was asked for: connecting, draining, and a slow machine.
GRACE = 120
NUMBERS = ("iops", "mb_per_s", "p50_us", "p99_us", "p999_us", "max_us", "server_cpu_us",
           "client_cpu_us", "machine_cpu_us", "silence_ms")


class ClientError(Exception):
    """A client that failed; the text is its own complaint."""


class Cell:
    """One kind of load."""

    def __init__(self, name, pattern, block_size, depth, flush_every=0, *, fio=False, tcp=False,
                 cached=False, null=False, quick=True):
        self.name = name
        self.pattern = pattern
        self.block_size = block_size
        self.depth = depth
        self.flush_every = flush_every
        self.fio = fio  # with fio's nbd engine as well
        self.tcp = tcp  # over TCP as well
        self.cached = cached  # for servers on the page cache as well
        self.null = null  # for the server without a disk as well
        self.quick = quick  # in the quick form, too

    @property
    def writes(self):
        return "write" in self.pattern

    def describe(self):
        size = f"{self.block_size // 1024} KiB"
        flush = f", a flush every {self.flush_every} writes" if self.flush_every else ""
        if self.pattern == "mixed":
            flush += "; latencies are those of the reads, seven of ten"
        return f"{size} {self.pattern}, queue depth {self.depth}{flush}"


def run(command, seconds):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds + GRACE, check=False)
    except subprocess.TimeoutExpired:
        raise ClientError(f"{command[0]} hangs") from None
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        name = os.path.basename(command[0])
        raise ClientError(f"{name}: {complaint[-1].removeprefix(name + ': ')[:300]}")
    return done.stdout


def nbdload(program, server, cell, seconds, warmup, size):
    """One turn of nbdload; a dict of NUMBERS."""
    command = [program, "--json", "--pattern", cell.pattern, "--block-size", str(cell.block_size),
               "--depth", str(cell.depth), "--runtime", str(seconds), "--warmup", str(warmup),
               "--working-set", str(size), "--flush-every", str(cell.flush_every),
               "--seed", str(int.from_bytes(os.urandom(4), "little")),
               "--server-pid", str(server.pid()), server.address(), server.export]
    found = json.loads(run(command, seconds + warmup))
    latency = found["read_us" if cell.pattern == "mixed" else "latency_us"]
    return {
        "iops": found["iops"], "mb_per_s": found["mb_per_s"], "p50_us": latency["p50"],
        "p99_us": latency["p99"], "p999_us": latency["p999"], "max_us": latency["max"],
        "server_cpu_us": found["server_cpu_us_per_io"],
        "client_cpu_us": found["client_cpu_us_per_io"],
        "machine_cpu_us": found["machine_cpu_us_per_io"],
        "silence_ms": found["longest_silence_us"] / 1000,
    }


def fill(program, server, size):
    """Writes the whole export in sequence, and flushes it."""
    run([program, "--fill", "--pattern", "none", "--working-set", str(size), "--fill-block", "1MiB",
         "--depth", "16", server.address(), server.export], 600)


def fio(cell, seconds, warmup, size, where):
    """One turn of fio; `where` are the options that name engine and target."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        run(["fio", f"--name={cell.name}", *where, f"--rw={cell.pattern}",
             f"--bs={cell.block_size}", f"--iodepth={cell.depth}", f"--size={size}",
             f"--fsync={cell.flush_every}", "--norandommap", "--randrepeat=0", "--refill_buffers",
             "--time_based", f"--runtime={seconds}", f"--ramp_time={warmup}",
             "--clat_percentiles=0", "--lat_percentiles=1", "--percentile_list=50:99:99.9",
             "--output-format=json", f"--output={out.name}"], seconds + warmup)
        text = out.read().decode()
    # Warnings may stand before the object.
    job = json.loads(text[text.index("{"):])["jobs"][0]
    if job["error"]:
        raise ClientError(f"fio: error {job['error']} ({os.strerror(job['error'])})")
    side = job["write" if cell.writes else "read"]
    percentile = side["lat_ns"]["percentile"]
    cpu_us = (job["usr_cpu"] + job["sys_cpu"]) / 100 * side["runtime"] * 1000
    return {
        "iops": side["iops"], "mb_per_s": side["bw_bytes"] / 1e6,
        "p50_us": percentile["50.000000"] / 1000, "p99_us": percentile["99.000000"] / 1000,
        "p999_us": percentile["99.900000"] / 1000, "max_us": side["lat_ns"]["max"] / 1000,
        "server_cpu_us": None, "client_cpu_us": cpu_us / max(side["total_ios"], 1),
        "machine_cpu_us": None, "silence_ms": None, "ios": side["total_ios"],
    }


def fio_raw(path, cell, seconds, warmup, size):
    found = fio(cell, seconds, warmup, size,
                ["--ioengine=io_uring", "--direct=1", f"--filename={path}"])
    del found["ios"]
    return found


def fio_nbd(server, cell, seconds, size):
    """Without a warm-up of its own, so that the server's CPU time is that of the same I/Os."""
    before = cpu_seconds(server.pid())
    found = fio(cell, seconds, 0, size, ["--ioengine=nbd", f"--uri={server.uri()}"])
    spent = cpu_seconds(server.pid()) - before
    found["server_cpu_us"] = spent * 1e6 / max(found.pop("ios"), 1)
    return found


def cpu_seconds(root):
    """CPU time of a process, its threads, its children, and those it has waited for."""
    parents, ticks = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        parents[int(entry)] = int(fields[1])
        ticks[int(entry)] = sum(int(x) for x in fields[11:15])
    tree = {root}
    while more := {p for p in parents if parents[p] in tree and p not in tree}:
        tree |= more
    return sum(ticks.get(p, 0) for p in tree) / os.sysconf("SC_CLK_TCK")
