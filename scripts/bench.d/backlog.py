#!/usr/bin/env python3
"""C8 at full size: what is live stays quick while a backlog drains.

Three relays of a group and a cloud on this machine, with the release binary. The cloud is stopped (SIGSTOP), the relays take a
million readings, the cloud goes on, and readings at a steady rate are measured from publisher to the cloud's subscriber until the
backlog has drained. Prints one JSON object. It wants the machine for itself, for about a minute.

    cargo build --release --bin forebay && scripts/bench.d/backlog.py
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "bench.d"))
sys.dont_write_bytecode = True

import brokers  # noqa: E402
import measures  # noqa: E402
from brokers import CLOUD, MEMBERS, RELAY, Failure, free_port  # noqa: E402

# Longer than `late_after`.
OUTAGE_SECONDS = 7
# Drained is when so many pages wait, or a twentieth of those that waited: live readings have some on their way at any moment.
DRAINED_PAGES = 100
DRAIN_SECONDS = 120
P99_MS, DRAIN_RATE = 250, 100_000


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="readings that wait (default 1000000)")
    parser.add_argument("--rate", type=int, default=2_000, help="live readings a second (default 2000)")
    parser.add_argument("--seconds", type=float, default=15, help="length of the live load (default 15)")
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / "target" / "release", help=argparse.SUPPRESS)
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    return parser.parse_args()


class Town(brokers.Yard):
    """A group whose relays tell their metrics."""

    def _town(self, broker):
        far, names = free_port(), [f"relay-{number}" for number in range(MEMBERS)]
        config = CLOUD.format(port=far, http=free_port(), data=self._directory("cloud"), members=json.dumps(names))
        self._spawn_role(broker, "cloud", far, config)
        ports, broker.admins = [], []
        for name in names:
            ports.append(free_port())
            broker.admins.append(free_port())
            config = RELAY.format(name=name, port=ports[-1], data=self._directory("relay"), cloud=far)
            self._spawn_role(broker, "relay", ports[-1], f'admin = "127.0.0.1:{broker.admins[-1]}"\n{config}')
        broker.address, broker.subscribe = ",".join(f"127.0.0.1:{port}" for port in ports), f"127.0.0.1:{far}"


def metric(broker, name):
    """The sum over all relays."""
    total = 0
    for admin in broker.admins:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
            found = re.search(rf"^{name} (\d+)", answer.read().decode(), re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total


def wait_for(what, holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def measure(town, chosen):
    broker = town.start("town")
    wait_for("two relays behind a proxy", lambda: metric(broker, "relay_way_proxied") == MEMBERS - 1, brokers.SETTLED_SECONDS)
    cloud = broker.processes[0].pid
    os.kill(cloud, signal.SIGSTOP)
    began = time.monotonic()
    try:
        old = ["--topic", "op/forward/old/meter-%i/power", "--connections", 9, "--window", 200, "--size", 20, "--messages", chosen.records]
        queued = measures._load(town, "--address", broker.address, *old)
        time.sleep(max(0, began + OUTAGE_SECONDS - time.monotonic()))
        waiting = metric(broker, "relay_outgoing_pages")
    finally:
        os.kill(cloud, signal.SIGCONT)
    began = time.monotonic()
    drained = {}
    enough = min(DRAINED_PAGES, waiting // 20)

    def watch():
        try:
            wait_for("drained", lambda: metric(broker, "relay_outgoing_pages") <= enough, DRAIN_SECONDS)
            drained["seconds"] = time.monotonic() - began
        except (Failure, OSError) as fault:
            drained["fault"] = str(fault)

    watching = threading.Thread(target=watch)
    watching.start()
    live = measures._load(
        town, "--address", broker.address, "--subscribe-address", broker.subscribe, "--subscribers", 1,
        "--topic", "op/forward/live/meter-%i/power", "--filter", "data/live/#", "--connections", 9, "--size", 20,
        "--rate", chosen.rate, "--warmup", 0, "--seconds", chosen.seconds,
    )
    watching.join()
    if "fault" in drained:
        raise Failure(drained["fault"])
    end_to_end = live["delivery"]["end_to_end_us"]
    return {
        "records_waiting": queued["acknowledged"] if "acknowledged" in queued else chosen.records,
        "pages_waiting": waiting,
        "drained_seconds": round(drained["seconds"], 2),
        "drained_records_per_second": round(chosen.records / drained["seconds"]),
        "live_rate": chosen.rate,
        "live_p50_ms": end_to_end["p50"] / 1000,
        "live_p99_ms": end_to_end["p99"] / 1000,
        "live_lost": live["delivery"].get("lost", 0),
        "historical_frames": metric(broker, "relay_frames_historical_total"),
    }


def main():
    chosen = options()
    data = ROOT / "target" / "bench" / "backlog"
    shutil.rmtree(data, ignore_errors=True)
    data.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Town(chosen.binaries, data) as town:
            found = measure(town, chosen)
    except Failure as failure:
        sys.exit(f"backlog: {failure}")
    met = found["live_p99_ms"] < P99_MS and found["drained_records_per_second"] >= DRAIN_RATE
    print(json.dumps({**found, "met": met}, indent=1))
    sys.exit(0 if met or not chosen.strict else 1)


if __name__ == "__main__":
    main()
