#!/usr/bin/env python3
"""Measures PushFlo against its goals and writes the table to bench/results/DATE-HOST/goals.md.

The server has one core, the load generator another; each run gets a fresh server. Where a goal is a
ratio, both sides run in turn. Needs nothing but Python's standard library, and a release build.
"""

import argparse
import datetime
import json
import pathlib
import socket
import statistics
import subprocess

from peers import RELEASE, ROOT, machine, run_pushflo


class Bench:
    def __init__(self, arguments, raw):
        self.arguments, self.raw, self.count = arguments, raw, 0

    def load(self, load, server="--shards 1", config=""):
        """One run of the load generator against a fresh server."""
        self.count += 1
        print(f"  {load}   (server: {server})", flush=True)
        out = self.raw / f"goal-{self.count:02}.json"
        return run_pushflo(load, server, out, self.arguments, config=config)

    def floor(self, options):
        """What the kernel alone takes for the same sends."""
        print(f"  floor {options}", flush=True)
        command = [str(RELEASE / "floor"), *options.split(), "--repeat", "1", "--json"]
        command += ["--cores", str(self.arguments.server_core), str(self.arguments.generator_core)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        return json.loads(done.stdout)

    def floor_cpu(self, options):
        """Microseconds of the kernel's CPU for each message."""
        return self.floor(options)["cpuMicrosecondsPerMessage"]["median"]

    def rounds(self, *measures):
        """Each measure in turn, several times: their values."""
        taken = [tuple(measure() for measure in measures) for _ in range(self.arguments.rounds)]
        return list(zip(*taken))


def spread(values, scale=1.0, digits=3):
    values = [v * scale for v in values]
    text = f"{statistics.median(values):.{digits}g}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}g} to {max(values):.{digits}g})"


def cpu(found):
    return found["serverCpuMicrosecondsPerDelivery"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    folder = arguments.out / f"{datetime.date.today().isoformat()}-{socket.gethostname()}"
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    bench, rows = Bench(arguments, raw), []

    def row(scenario, goal, measured, command):
        print(f"{scenario}: {measured}", flush=True)
        rows.append(f"| {scenario} | {goal} | {measured} | `{command}` |")

    paced = "fanout --rate 20 --duration 4 --warm-up 1"
    runs, floors = bench.rounds(lambda: bench.load(paced), lambda: bench.floor_cpu("--rate 20 --seconds 4"))
    ratio = statistics.median(map(cpu, runs)) / statistics.median(floors)
    measured = f"{spread([cpu(r) for r in runs])} µs, floor {spread(floors)} µs: {ratio:.2f} × floor"
    row("`fanout` paced, CPU per delivery", "at most 1.2 × floor", measured, paced + "; floor --rate 20")

    full = "fanout --rate max --pipeline 64 --duration 4 --warm-up 1"
    runs, floors = bench.rounds(
        lambda: bench.load(full), lambda: bench.floor_cpu("--messages-per-send 64 --seconds 4")
    )
    ratio = statistics.median(map(cpu, runs)) / statistics.median(floors)
    rate = spread([r["deliveriesPerSecond"] for r in runs], 1e-6)
    late = spread([r["latencyNanoseconds"]["p99"] for r in runs], 1e-6)
    gathered = spread([r["messagesPerFlush"] for r in runs])
    measured = (
        f"{rate} million/s, {spread([cpu(r) for r in runs])} µs at {gathered} messages a write, floor "
        f"at 64 {spread(floors)} µs: {ratio:.2f} × floor; p99 {late} ms"
    )
    goal = "3.3 million/s, at most 1.5 × floor, p99 under 100 ms, none lost"
    row("`fanout` saturated", goal, measured, full + "; floor --messages-per-send 64")

    single = "personal --duration 5 --warm-up 2"
    batch = "personal --batch 1000 --publishers 16 --pipeline 4 --duration 5 --warm-up 2"
    memory = "--shards 1 --durability memory"
    for name, goal, load in [("one a request", "60,000 publishes/s", single), ("batch call", "250,000/s", batch)]:
        with_log, without = bench.rounds(lambda: bench.load(load), lambda: bench.load(load, memory))
        rates = [spread([r["deliveriesPerSecond"] for r in runs], 1e-3) for runs in (with_log, without)]
        gathered = spread([r["messagesPerFlush"] for r in without])
        row(
            f"`personal`, {name}", goal,
            f"{rates[1]} thousand/s in memory ({gathered} messages a write), {rates[0]} with the log", load,
        )
    sends = bench.floor("--sockets 10000 --seconds 4")
    row(
        "`personal`, the sends alone", "(floor)",
        f"{sends['cpuMicrosecondsPerMessage']['median']:.2f} µs each, {sends['messagesPerSecond'] / 1e3:.3g} "
        "thousand/s: what is above it gathered several messages into a write",
        "floor --sockets 10000",
    )

    idle = bench.load("idle --subscribers 15000 --duration 5")
    many = bench.load("idle --subscribers 100000 --duration 75", "--cores 0 --shards 6")
    share = many["serverCpuNanoseconds"] / many["seconds"] / 1e7
    quiet = bench.load("idle --subscribers 100000 --duration 60", "--cores 0 --shards 6", "[timeouts]\nping_ms = 600000")
    quiet_share = quiet["serverCpuNanoseconds"] / quiet["seconds"] / 1e7
    pings = 100_000 / 55
    measured = (
        f"{idle['memoryPerConnectionBytes']:.0f} B at 15,000, {many['memoryPerConnectionBytes']:.0f} B at 100,000; "
        f"{quiet_share:.2f} % of a core at 100,000, and {share:.2f} % with a ping and a pong on each every 55 s: "
        f"{(share - quiet_share) * 1e4 / pings:.1f} µs for a send and a receive"
    )
    row("`idle`", "at most 1 KB each, aim 423 B; under 1 % of a core", measured, "idle --subscribers 100000 --duration 75")

    (runs,) = bench.rounds(lambda: bench.load("storm"))
    late = spread([r["recoveryNanoseconds"]["p99"] for r in runs], 1e-6)
    row("`storm`, 10,000 × 20 missed", "whole, p99 under 600 ms", f"whole, p99 {late} ms", "storm")

    gentle = "latency --duration 5 --warm-up 1"
    with_log, without, floors = bench.rounds(
        lambda: bench.load(gentle), lambda: bench.load(gentle, memory),
        lambda: bench.floor("--latency --sockets 100 --seconds 5"),
    )
    told = []
    for runs in (without, with_log):
        values = [spread([r["latencyNanoseconds"][p] for r in runs], 1e-6) for p in ("p50", "p99")]
        told.append(f"p50 {values[0]}, p99 {values[1]} ms")
    least = [spread([f["latencyMs"][index] for f in floors]) for index in (0, 1)]
    row(
        "`latency`, 100 subscribers", "p50 under 0.5 ms, p99 under 2 ms",
        f"in memory {told[0]}; with the log {told[1]}; a wake-up and 100 sends without a server, in turn: "
        f"p50 {least[0]}, p99 {least[1]} ms",
        gentle + "; floor --latency --sockets 100",
    )

    disk = "--shards 1 --durability disk"
    synced, off = bench.rounds(lambda: bench.load(full, disk), lambda: bench.load(full, memory))
    ratio = statistics.median(r["deliveriesPerSecond"] for r in synced) / statistics.median(
        r["deliveriesPerSecond"] for r in off
    )
    measured = (
        f"{spread([r['deliveriesPerSecond'] for r in synced], 1e-6)} million/s synced, "
        f"{spread([r['deliveriesPerSecond'] for r in off], 1e-6)} without: {100 * ratio:.0f} %"
    )
    row("history synced to disk, saturated", "at least 50 % of history off", measured, full + " (--durability disk, memory)")
    ingress = "ingress --batch 1000 --publishers 8 --pipeline 2 --duration 5 --warm-up 1"
    (runs,) = bench.rounds(lambda: bench.load(ingress, disk))
    rate = spread([r["publishes"] / r["seconds"] for r in runs], 1e-3)
    row("history synced to disk, batch call", "100,000 publishes/s", f"{rate} thousand/s", ingress + " (--durability disk)")

    about = machine()
    text = [
        "# Goals and what was measured",
        "",
        f"{about['cores']} × {about['cpu']}, Linux {about['kernel']}, commit {about['commit']}. One core for the",
        "server, one for the generator; every message checked at every subscriber; medians (least to",
        f"most) of {arguments.rounds} rounds. The command is what follows `pushflo-loadgen`; the whole is made",
        "by `bench/goals.py`. Unless it says otherwise, history is on and on disk (`--durability os`).",
        "",
        "| scenario | goal | measured | command |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]
    (folder / "goals.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
