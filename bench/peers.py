#!/usr/bin/env python3
"""Runs the same scenarios against PushFlo and every other server that is installed, alternating.

Each server runs alone on one core, the load generator on another; each run gets a fresh server.
Raw data, commands, versions, a table and plots go to bench/results/DATE-HOST/.

Needs nothing but Python's standard library. A server that is missing is skipped, and it is said how
to install it.
"""

import argparse
import datetime
import glob
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = ROOT / "target" / "release"
PUBLISH_KEY = "pub_0123456789abcdef0123"
SECRET_KEY = "sec_0123456789abcdef0123"

# Arguments of each scenario. Everything else is the load generator's reference size.
SCENARIOS = {
    "paced": ["fanout", "--rate", "20"],
    "saturated": ["fanout", "--rate", "max", "--pipeline", "64"],
    "latency": ["latency"],
    "idle": ["idle", "--subscribers", "12000"],
}

# What is told of each scenario: a name, the key in the raw data and its factor to the unit.
MEASURES = {
    "paced": [("CPU per delivery", "µs", ("serverCpuMicrosecondsPerDelivery",), 1)],
    "saturated": [
        ("deliveries per second", "million", ("deliveriesPerSecond",), 1e-6),
        ("CPU per delivery", "µs", ("serverCpuMicrosecondsPerDelivery",), 1),
    ],
    "latency": [
        ("latency p50", "ms", ("latencyNanoseconds", "p50"), 1e-6),
        ("latency p99", "ms", ("latencyNanoseconds", "p99"), 1e-6),
    ],
    "idle": [("memory per connection", "KB", ("memoryPerConnectionBytes",), 1e-3)],
}


class Server:
    """A server under test: how it is found, started and spoken to."""

    def __init__(self, name, program, install, version, start, load):
        self.name, self.program, self.install = name, program, install
        self.version, self.start, self.load = version, start, load


def output(command):
    """The first line a command prints, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0].strip() if lines else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def find(*names):
    """The first of these programs that is installed; a name may be a path with wildcards."""
    for name in names:
        found = shutil.which(name) or next(iter(sorted(glob.glob(os.path.expanduser(name)))), None)
        if found:
            return found
    return None


def write(folder, name, text):
    path = pathlib.Path(folder) / name
    path.write_text(text)
    return str(path)


def start_pushflo(program, folder):
    return [program, "--listen", "127.0.0.1:8101", "--shards", "1", "--data-dir", f"{folder}/data"]


def start_nats(program, folder):
    text = """listen: "127.0.0.1:8112"
websocket { listen: "127.0.0.1:8102", no_tls: true }
max_connections: 20000
"""
    return [program, "-c", write(folder, "nats.conf", text)]


def start_centrifugo(program, folder):
    config = {
        "http_server": {"address": "127.0.0.1", "port": "8103"},
        "http_api": {"key": SECRET_KEY},
        "client": {"allowed_origins": ["*"], "insecure": True},
        "channel": {"without_namespace": {"allow_subscribe_for_client": True}},
        "log": {"level": "error"},
    }
    return [program, "-c", write(folder, "centrifugo.json", json.dumps(config))]


def start_nchan(program, folder):
    module = find("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib*/nginx/modules/*nchan*")
    text = f"""daemon off;
load_module {module};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  nchan_max_reserved_memory 512M;
  client_body_temp_path {folder}/body;
  server {{
    listen 127.0.0.1:8104;
    location ~ /sub/(.+)$ {{
      nchan_subscriber websocket; nchan_channel_id $1; nchan_message_buffer_length 2000;
    }}
    location ~ /pub/(.+)$ {{
      nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 2000;
    }}
  }}
}}
"""
    return [program, "-c", write(folder, "nginx.conf", text)]


def find_nchan():
    module = find("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib*/nginx/modules/*nchan*")
    return find("nginx", "/usr/sbin/nginx") if module else None


def start_uwebsockets(program, folder):
    return [program, str(ROOT / "bench" / "uws_app.py"), "8105"]


def find_uwebsockets():
    for python in (os.environ.get("SOCKETIFY_PYTHON"), sys.executable):
        if python and subprocess.run([python, "-c", "import socketify"], capture_output=True).returncode == 0:
            return python
    return None


def start_sockudo(program, folder):
    config = {
        "host": "127.0.0.1",
        "port": 8106,
        "debug": False,
        "adapter": {"driver": "local"},
        "metrics": {"enabled": False},
        "rate_limiter": {"enabled": False},
        "app_manager": {
            "driver": "memory",
            "array": {
                "apps": [
                    {
                        "id": "load",
                        "key": PUBLISH_KEY,
                        "secret": SECRET_KEY,
                        "max_connections": 1_000_000,
                        "enable_client_messages": False,
                        "enabled": True,
                        "max_client_events_per_second": 1_000_000,
                    }
                ]
            },
        },
    }
    return [program, "--config", write(folder, "sockudo.json", json.dumps(config))]


SERVERS = [
    Server(
        "pushflo", lambda: find(str(RELEASE / "pushflo")), "cargo build --release --workspace",
        "--version", start_pushflo, ["--url", "http://127.0.0.1:8101"],
    ),
    Server(
        "uwebsockets", find_uwebsockets,
        "pip install socketify (name its Python in SOCKETIFY_PYTHON if it is in a virtual environment)",
        None, start_uwebsockets, ["--driver", "plain", "--url", "http://127.0.0.1:8105"],
    ),
    Server(
        "nchan", find_nchan, "apt install nginx libnginx-mod-nchan",
        "-v", start_nchan, ["--driver", "plain", "--url", "http://127.0.0.1:8104"],
    ),
    Server(
        "nats", lambda: find("nats-server", "~/go/bin/nats-server"), "apt install nats-server",
        "--version", start_nats,
        ["--driver", "nats", "--url", "http://127.0.0.1:8102", "--publish-url", "http://127.0.0.1:8112"],
    ),
    Server(
        "centrifugo", lambda: find("centrifugo", "~/go/bin/centrifugo"),
        "go install github.com/centrifugal/centrifugo/v6@latest",
        "version", start_centrifugo, ["--driver", "centrifugo", "--url", "http://127.0.0.1:8103"],
    ),
    Server(
        "sockudo", lambda: find("sockudo", "~/.cargo/bin/sockudo"), "cargo install sockudo",
        "--version", start_sockudo,
        ["--driver", "pusher", "--url", "http://127.0.0.1:8106"],
    ),
]


def port_of(server):
    url = server.load[server.load.index("--url") + 1]
    return int(url.rsplit(":", 1)[1])


def wait_for(port, process):
    """Waits until a server answers."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("it does not listen")


def run_pushflo(load, server, out, arguments, program=RELEASE / "pushflo", config=""):
    """One run of the load generator against a fresh PushFlo, whose report goes to `out`."""
    environment = dict(os.environ, PUSHFLO_PUBLISH_KEY=PUBLISH_KEY, PUSHFLO_SECRET_KEY=SECRET_KEY)
    with tempfile.TemporaryDirectory(prefix="pushflo-measured-") as folder:
        command = ["taskset", "-c", str(arguments.server_core), str(program)]
        command += ["--listen", "127.0.0.1:8101", "--data-dir", f"{folder}/data", *server.split()]
        command += ["--config", write(folder, "pushflo.toml", config)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for(8101, process)
            time.sleep(0.5)
            command = [str(RELEASE / "pushflo-loadgen"), *load.split(), "--url", "http://127.0.0.1:8101"]
            command += ["--cores", str(arguments.generator_core)]
            command += ["--server-pid", str(process.pid), "--json", str(out)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
            found = read_report(out)
            if not found["whole"]:
                raise SystemExit(f"messages were lost:\n{done.stdout}")
            return found
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(1)


def worker_of(process):
    """The process that serves: nginx does it in a child."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else process.pid


def without_paths(text, program=None):
    """The text without what only this machine has: where the repository and the program are."""
    text = text.replace(f"{ROOT}/", "")
    return text.replace(program, pathlib.Path(program).name) if program else text


def read_report(out):
    """What the load generator wrote, kept without this machine's paths."""
    text = without_paths(out.read_text())
    out.write_text(text)
    return json.loads(text)


def run(server, program, scenario, arguments, raw, number, commands):
    """One run against a fresh server. Returns what was measured, or None."""
    environment = dict(
        os.environ, PUSHFLO_PUBLISH_KEY=PUBLISH_KEY, PUSHFLO_SECRET_KEY=SECRET_KEY,
        GOMAXPROCS="1", TOKIO_WORKER_THREADS="1", RUST_LOG="error",
    )
    with tempfile.TemporaryDirectory(prefix="pushflo-peers-") as folder:
        command = ["taskset", "-c", str(arguments.server_core), *server.start(program, folder)]
        log = open(pathlib.Path(folder) / "log", "wb")
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
        try:
            wait_for(port_of(server), process)
            time.sleep(0.5)
            out = raw / f"{scenario}-{server.name}-{number}.json"
            load = [
                str(RELEASE / "pushflo-loadgen"), *SCENARIOS[scenario], *server.load,
                "--duration", str(arguments.seconds), "--warm-up", "1",
                "--cores", str(arguments.generator_core), "--json", str(out),
            ]
            started = without_paths(" ".join(command), program)
            commands.append(f"{started}\n{without_paths(' '.join(load))} --server-pid …\n")
            load += ["--server-pid", str(worker_of(process))]
            done = subprocess.run(
                load, env=environment, capture_output=True, text=True, timeout=arguments.seconds + 180
            )
            if not out.exists():
                raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1:])
            found = read_report(out)
            if not found["whole"]:
                lines = [line.strip() for line in done.stdout.splitlines() if "FAILED" in line]
                print(f"    {'; '.join(lines)}", flush=True)
            return found
        finally:
            log.close()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(arguments.pause)


def value(found, keys, factor):
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else found * factor


def machine():
    cpu = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "commit": output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
    }


def summary(results, names, versions, arguments):
    """The table: medians, in brackets the least and the most."""
    lines = ["# PushFlo beside other servers", ""]
    about = machine()
    lines += [
        f"{about['cores']} × {about['cpu']}, Linux {about['kernel']}, commit {about['commit']}.",
        "The server alone on one core, the generator on another, both ends on loopback; 1,000",
        "subscribers of one channel (idle: 12,000; latency: 100), 200-byte payload, a fresh server for",
        f"each run of {arguments.seconds} s, the servers in turn, {arguments.rounds} rounds: median (least to most).",
        "",
    ]
    columns = [(scenario, m) for scenario in results for m in MEASURES[scenario]]
    lines.append("| server | " + " | ".join(f"{s}: {m[0]} ({m[1]})" for s, m in columns) + " |")
    lines.append("| --- |" + " --- |" * len(columns))
    for name in names:
        cells = []
        for scenario, (_, _, keys, factor) in columns:
            runs = results[scenario].get(name, [])
            values = [v for v in (value(run, keys, factor) for run in runs) if v is not None]
            if not values:
                cells.append("did not run")
                continue
            text = f"{statistics.median(values):.3g}"
            if len(values) > 1:
                text += f" ({min(values):.3g} to {max(values):.3g})"
            if not all(run["whole"] for run in runs):
                text += ", lost messages"
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Versions:", ""]
    lines += [f"- {name}: {versions[name]}" for name in names]
    lines += ["", "`commands.txt` has every command, `raw/` all that each run measured."]
    return "\n".join(lines) + "\n"


def plot(title, unit, bars):
    """Horizontal bars from zero as SVG."""
    width, left, row = 720, 130, 30
    most = max([v for _, v in bars] + [1e-12])
    height = 60 + row * len(bars)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="24" font-size="16">{title} ({unit})</text>',
    ]
    for index, (name, v) in enumerate(bars):
        y, length = 44 + row * index, (width - left - 90) * v / most
        color = "#0b7285" if name == "pushflo" else "#adb5bd"
        out.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{name}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="20" fill="{color}"/>')
        out.append(f'<text x="{left + length + 6:.1f}" y="{y + 15}">{v:.3g}</text>')
    out.append("</svg>")
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="measured in each run (6)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each scenario and server (3)")
    parser.add_argument("--pause", type=float, default=1, help="seconds between runs (1)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--generator-core", type=int, default=1)
    parser.add_argument("--only", help="these servers, such as pushflo,nats")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="some of " + ", ".join(SCENARIOS))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    scenarios = arguments.scenarios.split(",")
    unknown = [scenario for scenario in scenarios if scenario not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    wanted = arguments.only.split(",") if arguments.only else [server.name for server in SERVERS]
    if not (RELEASE / "pushflo-loadgen").exists():
        parser.error("build first: cargo build --release --workspace")
    there = []
    for server in SERVERS:
        if server.name not in wanted:
            continue
        program = server.program()
        if program is None:
            print(f"{server.name} is not installed and left out; to install it: {server.install}")
        else:
            there.append((server, program))
    if not there:
        parser.error("none of these servers is installed")
    versions = {}
    for server, program in there:
        if server.version:
            versions[server.name] = output([program, server.version])
        else:
            versions[server.name] = output([program, "-c", "import importlib.metadata as m; print('socketify', m.version('socketify'))"])
    folder = arguments.out / f"{datetime.date.today().isoformat()}-{socket.gethostname()}"
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    results, commands = {scenario: {} for scenario in scenarios}, []
    total, done = len(scenarios) * arguments.rounds * len(there), 0
    for number in range(1, arguments.rounds + 1):
        for scenario in scenarios:
            for server, program in there:
                done += 1
                print(f"[{done}/{total}] round {number}, {scenario}, {server.name}", flush=True)
                try:
                    found = run(server, program, scenario, arguments, raw, number, commands)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    print(f"    did not run: {error}", flush=True)
                    continue
                results[scenario].setdefault(server.name, []).append(found)
                told = [f"{m[0]} {value(found, m[2], m[3]) or 0:.3g} {m[1]}" for m in MEASURES[scenario]]
                print("    " + ", ".join(told), flush=True)
    names = [server.name for server, _ in there]
    (folder / "summary.md").write_text(summary(results, names, versions, arguments))
    (folder / "commands.txt").write_text("\n".join(commands))
    (folder / "machine.json").write_text(json.dumps({**machine(), "versions": versions}, indent=2) + "\n")
    for scenario in scenarios:
        for measure, unit, keys, factor in MEASURES[scenario]:
            bars = []
            for name in names:
                values = [value(run, keys, factor) for run in results[scenario].get(name, [])]
                values = [v for v in values if v is not None]
                if values:
                    bars.append((name, statistics.median(values)))
            if bars:
                file = f"{scenario}-{measure.replace(' ', '-')}.svg"
                (folder / file).write_text(plot(f"{scenario}: {measure}", unit, bars))
    print(f"\n{(folder / 'summary.md').read_text()}\nwritten to {folder}")


if __name__ == "__main__":
    main()
