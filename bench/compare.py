#!/usr/bin/env python3
"""Measures two builds of PushFlo beside each other, in turn, and prints how the second compares.

    python3 bench/compare.py BEFORE [AFTER] [--rounds 5] [--only "fanout;latency"]

BEFORE and AFTER are programs `pushflo`; AFTER is this checkout's release build if it is not said. The
server has one core, the load generator another; each run gets a fresh server. A ratio under 1 is better
in every row but those of deliveries per second. What is within the spread of the rounds is noise.
"""

import argparse
import pathlib
import signal
import statistics
import sys
import tempfile

from peers import RELEASE, run_pushflo

LOG, MEMORY = "--shards 1 --durability os", "--shards 1 --durability memory"


def cpu(report):
    """Microseconds of the server for each delivery."""
    return report["serverCpuMicrosecondsPerDelivery"]


def gathered(report):
    """Messages in a write."""
    return report["messagesPerFlush"]


def rate(report):
    """Thousand deliveries a second."""
    return report["deliveriesPerSecond"] / 1e3


def late(part):
    """A part of the latencies in milliseconds."""
    return lambda report: report["latencyNanoseconds"][part] / 1e6


def whole(report):
    """When 99 of 100 clients of a storm were whole again, in milliseconds."""
    return report["recoveryNanoseconds"]["p99"] / 1e6


def bytes_each(report):
    """Memory of an idle connection."""
    return report["memoryPerConnectionBytes"]


# What is run, and what is told of it: name, load, server, {column: figure}.
SCENARIOS = [
    ("fanout paced, log", "fanout --rate 20 --duration 4 --warm-up 1", LOG, {"µs a delivery": cpu}),
    ("fanout paced, memory", "fanout --rate 20 --duration 4 --warm-up 1", MEMORY, {"µs a delivery": cpu}),
    (
        "fanout saturated, log", "fanout --rate max --pipeline 64 --duration 4 --warm-up 1", LOG,
        {"µs a delivery": cpu, "thousand/s": rate, "messages a write": gathered},
    ),
    (
        "fanout saturated, memory", "fanout --rate max --pipeline 64 --duration 4 --warm-up 1", MEMORY,
        {"µs a delivery": cpu, "thousand/s": rate, "messages a write": gathered},
    ),
    ("personal, log", "personal --duration 4 --warm-up 2", LOG, {"µs a delivery": cpu, "thousand/s": rate}),
    ("personal, memory", "personal --duration 4 --warm-up 2", MEMORY, {"µs a delivery": cpu, "thousand/s": rate}),
    (
        "personal batch, log", "personal --batch 1000 --publishers 16 --pipeline 4 --duration 4 --warm-up 2", LOG,
        {"µs a delivery": cpu, "thousand/s": rate},
    ),
    ("latency, log", "latency --duration 4 --warm-up 1", LOG, {"p50 ms": late("p50"), "p99 ms": late("p99")}),
    ("latency, memory", "latency --duration 4 --warm-up 1", MEMORY, {"p50 ms": late("p50"), "p99 ms": late("p99")}),
    ("storm, log", "storm", LOG, {"p99 ms": whole}),
    ("idle", "idle --subscribers 15000 --duration 4", LOG, {"bytes each": bytes_each}),
]


def run(program, load, server, arguments):
    """One run of a program in a scenario."""
    with tempfile.TemporaryDirectory(prefix="pushflo-compare-") as folder:
        return run_pushflo(load, server, pathlib.Path(folder) / "report.json", arguments, program)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default=str(RELEASE / "pushflo"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="parts of the names of scenarios")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    arguments = parser.parse_args()
    # So that a server is not left behind by one who is told to go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    only = [part for part in arguments.only.split(";") if part]
    print("| scenario | figure | before | after | ratio |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, load, server, figures in SCENARIOS:
        if only and not any(part in name for part in only):
            continue
        before, after = [], []
        for _ in range(arguments.rounds):
            before.append(run(arguments.before, load, server, arguments))
            after.append(run(arguments.after, load, server, arguments))
        for column, figure in figures.items():
            sides = [sorted(map(figure, reports)) for reports in (before, after)]
            told = [f"{statistics.median(side):.4g} ({side[0]:.4g} to {side[-1]:.4g})" for side in sides]
            ratio = statistics.median(sides[1]) / statistics.median(sides[0])
            print(f"| {name} | {column} | {told[0]} | {told[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
