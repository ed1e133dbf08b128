# SPDX-License-Identifier: Apache-2.0
"""The ratios that volumed is to reach, and how far it got in this run."""


class Rows:
    """Looks up medians; None where something was not measured."""

    def __init__(self, rows):
        self.rows = [r for r in rows if not r["error"]]

    def best(self, cell, kind, number="iops"):
        """Of the servers of that kind with the lean client; the raw file has fio for a client."""
        found = [r[number] for r in self.rows
                 if r["cell"] == cell and r["kind"] == kind and r["transport"] != "tcp"
                 and r["client"] == ("fio" if kind == "raw" else "nbdload")
                 and r[number] is not None]
        if not found:
            return None
        return max(found) if number == "iops" else min(found)


def ratio(cell, kind):
    def value(rows):
        ours, theirs = rows.best(cell, "ours"), rows.best(cell, kind)
        return ours / theirs if ours and theirs else None
    return value


def over_null(cell):
    def value(rows):
        ours, null, raw = (rows.best(cell, k, "p50_us") for k in ("ours", "null", "raw"))
        return None if None in (ours, null, raw) else ours - null - raw
    return value


def server_cpu(cell):
    return lambda rows: rows.best(cell, "ours", "server_cpu_us")


def read_p99_under_flush(rows):
    without, under = (rows.best(c, "ours", "p99_us") for c in ("mixed-qd32", "mixed-flush32"))
    return under / without if without and under else None


# What, target, stretch, how it is found, unit. Units of time: less is better.
GOALS = (
    ("4 KiB random write QD32, to the raw file", 1.3, 2, ratio("randwrite-qd32", "raw"), "x"),
    ("4 KiB random write QD128, to the raw file", 2, 3, ratio("randwrite-qd128", "raw"), "x"),
    ("4 KiB random write QD32, to the best direct peer", 4, 8,
     ratio("randwrite-qd32", "direct"), "x"),
    ("4 KiB random write QD128, to the best direct peer", 4, 8,
     ratio("randwrite-qd128", "direct"), "x"),
    ("4 KiB random read QD32, to the raw file", 0.85, 0.95, ratio("randread-qd32", "raw"), "x"),
    ("4 KiB random read QD32, to the best direct peer", 2.5, 4,
     ratio("randread-qd32", "direct"), "x"),
    ("4 KiB read QD1, p50 over null server plus raw file", 15, 8,
     over_null("randread-qd1"), "us"),
    ("4 KiB write QD1, p50 over null server plus raw file", 15, 8,
     over_null("randwrite-qd1"), "us"),
    ("128 KiB sequential read QD8, to the raw file", 0.9, 1, ratio("seqread-128k", "raw"), "x"),
    ("128 KiB sequential write QD8, to the raw file", 0.9, 1, ratio("seqwrite-128k", "raw"), "x"),
    ("4 KiB random write, a flush every 32, to the best direct peer", 3, 5,
     ratio("randwrite-flush32", "direct"), "x"),
    ("server CPU of a 4 KiB random write at QD32", 10, 5, server_cpu("randwrite-qd32"), "us"),
    ("server CPU of a 4 KiB random read at QD32", 10, 5, server_cpu("randread-qd32"), "us"),
    ("read p99 beside flushes, to that without", 2, 1.2, read_p99_under_flush, "x less"),
)
HEAD = ("what", "target", "stretch", "reached", "")


def verdict(value, target, stretch, unit):
    if value is None:
        return "not measured"
    sign = 1 if unit == "x" else -1
    if sign * value >= sign * stretch:
        return "stretch reached"
    return "reached" if sign * value >= sign * target else "not reached"


def lines(rows):
    found = Rows(rows)
    for what, target, stretch, find, unit in GOALS:
        value = find(found)
        mark = unit.split()[0]
        text = "-" if value is None else f"{value:.2f} x" if mark == "x" else f"{value:.1f} us"
        yield (what, f"{target} {mark}", f"{stretch} {mark}", text,
               verdict(value, target, stretch, unit))


def terminal(rows):
    table = [HEAD, *lines(rows)]
    width = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    return "\n".join("  " + "  ".join(line[i].ljust(width[i]) for i in range(len(HEAD))).rstrip()
                     for line in table)


def markdown(rows):
    return ["| " + " | ".join(HEAD) + " |", "|---|---:|---:|---:|---|",
            *("| " + " | ".join(line) + " |" for line in lines(rows))]
