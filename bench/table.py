# SPDX-License-Identifier: Apache-2.0
"""From single turns to medians and ratios, as CSV, as Markdown and for the terminal."""

import csv
import os
import platform
import statistics
import subprocess

import goals
from clients import NUMBERS

TURN_COLUMNS = ("cell", "transport", "client", "server", "kind", "round", *NUMBERS, "error")
ROW_COLUMNS = ("cell", "transport", "client", "server", "kind", "turns", *NUMBERS,
               "iops_low", "iops_high", "to_raw", "to_best_direct", "error")
HEAD = ("server", "I/O", "client", "over", "IOPS", "low - high", "MB/s", "p50 us", "p99 us", "p99.9 us",
        "server CPU us/IO", "client CPU us/IO", "x raw", "x best direct")


def write_csv(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, columns, extrasaction="ignore", restval="")
        out.writeheader()
        for row in rows:
            out.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def medians(turns):
    """One row for each cell, client and server, in the order in which they first came."""
    groups = {}
    for turn in turns:
        key = (turn["cell"], turn["transport"], turn["client"], turn["server"])
        groups.setdefault(key, []).append(turn)
    rows = []
    for group in groups.values():
        good = [t for t in group if not t.get("error")]
        row = {k: group[0].get(k) for k in ("cell", "transport", "client", "server", "kind")}
        row["turns"] = len(good)
        row.update({n: median([t.get(n) for t in good]) for n in NUMBERS})
        row["iops_low"] = min((t["iops"] for t in good), default=None)
        row["iops_high"] = max((t["iops"] for t in good), default=None)
        row["error"] = next((t["error"] for t in group if t.get("error")), "")
        rows.append(row)
    add_ratios(rows)
    return rows


def add_ratios(rows):
    """Of each row's IOPS to the raw file's, and to the best direct peer's by the same client."""
    for row in rows:
        same = [r for r in rows if r["cell"] == row["cell"] and r["iops"] and not r["error"]]
        raw = [r["iops"] for r in same if r["kind"] == "raw"]
        peers = [r["iops"] for r in same if r["kind"] == "direct"
                 and (r["client"], r["transport"]) == (row["client"], row["transport"])]
        have = row["iops"] is not None
        row["to_raw"] = row["iops"] / max(raw) if have and raw else None
        row["to_best_direct"] = row["iops"] / max(peers) if have and peers else None


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def fields(row):
    return (row["server"], row["kind"], row["client"], row["transport"] or "-",
            number(row["iops"]),
            f"{number(row['iops_low'])} - {number(row['iops_high'])}" if row["turns"] else "-",
            number(row["mb_per_s"], 1), number(row["p50_us"]), number(row["p99_us"]),
            number(row["p999_us"]), number(row["server_cpu_us"], 1),
            number(row["client_cpu_us"], 1), number(row["to_raw"], 2),
            number(row["to_best_direct"], 2))


def terminal(cell, rows):
    lines = [HEAD] + [fields(r) for r in rows if r["cell"] == cell.name]
    width = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = [f"\n{cell.name}: {cell.describe()}"]
    for line in lines:
        left = "  ".join(line[i].ljust(width[i]) for i in range(4))
        right = "  ".join(line[i].rjust(width[i]) for i in range(4, len(HEAD)))
        text.append(f"  {left}  {right}")
    return "\n".join(text + complaints(cell, rows, "  "))


def complaints(cell, rows, indent=""):
    return [f"{indent}{r['server']} ({r['client']}): {r['error']}"
            for r in rows if r["cell"] == cell.name and r["error"]]


def markdown(cells, rows, facts, notes):
    out = ["## The machine", ""] + [f"- {name}: {value}" for name, value in facts]
    out += ["", "## Numbers to reach", "", *goals.markdown(rows), "", "## All measurements"]
    out += ["", "Medians of the turns; ratios are of IOPS. `cached` servers answer from and to the "
            "page cache: their numbers are no disk's."]
    if notes:
        out += ["", "Not measured:", ""] + [f"- {note}" for note in notes]
    for cell in cells:
        some = [r for r in rows if r["cell"] == cell.name]
        if not some:
            continue
        out += ["", f"### {cell.name}", "", f"{cell.describe()}.", ""]
        out += ["| " + " | ".join(HEAD) + " |", "|---|---|---|---|" + "---:|" * (len(HEAD) - 4)]
        out += ["| " + " | ".join(fields(r)) + " |" for r in some]
        out += [""] + complaints(cell, rows, "- ") if complaints(cell, rows) else []
    return "\n".join(out) + "\n"


def publish(path, text, section="bench"):
    """Puts the tables between the two markers of a document."""
    begin, end = f"<!-- {section} begin -->", f"<!-- {section} end -->"
    with open(path, encoding="utf-8") as f:
        whole = f.read()
    if begin not in whole or end not in whole:
        raise SystemExit(f"bench: {path} has no lines \"{begin}\" and \"{end}\" to put the tables "
                         "between")
    before, rest = whole.split(begin)
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"{before}{begin}\n{text}{end}{rest.split(end)[1]}")


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if done.returncode == 0 and text else None


def proc_value(path, key):
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return "unknown"


def machine(directory):
    """What a reader must know about the machine, as (name, value) pairs."""
    source = first_line("findmnt", "-no", "FSTYPE,SOURCE", "-T", directory) or "unknown"
    device = source.split()[-1] if source != "unknown" else ""
    model = first_line("lsblk", "-dno", "SIZE,ROTA,MODEL", device) if device else None
    facts = [
        ("date", first_line("date", "+%F %H:%M %Z") or "unknown"),
        ("CPU", f"{os.cpu_count()} x {proc_value('/proc/cpuinfo', 'model name')}"),
        ("memory", proc_value("/proc/meminfo", "MemTotal")),
        ("kernel", platform.release()),
        ("virtual machine", first_line("systemd-detect-virt", "--vm") or "no"),
        ("disk", f"{source}" + (f" (size, rotational, model: {model.strip()})" if model else "")),
        ("commit", first_line("git", "rev-parse", "--short", "HEAD") or "unknown"),
    ]
    for tool in ("fio", "nbdkit", "qemu-nbd", "qemu-storage-daemon", "nbd-server"):
        facts.append((tool, first_line(tool, "-V" if tool == "nbd-server" else "--version")
                      or "not installed"))
    return facts
