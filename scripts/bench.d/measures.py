"""The measurements: each a short run of `forebay load` against freshly started brokers, in interleaved rounds."""

import json
import pathlib
import re
import subprocess
import sys

import brokers
from brokers import Failure

ALL = ("acks", "one", "chain", "group", "idle", "query", "size", "backlog", "bypass")
# What needs no rounds: once is enough.
ONCE = ("idle", "query", "size", "backlog", "bypass")
SIZE = 100
WINDOW = 200
# Turns of disk and relay in one round.
SLICES = 4
# Grows a relay's write-ahead log to its full size, as after its first minutes in service: from then on it is overwritten in place,
# which is what the bare disk is timed with.
FIRST_MINUTES = ["--connections", 10, "--window", WINDOW, "--size", SIZE, "--warmup", 0, "--seconds", 2]
BROKERS = ("mosquitto", "rumqttd", "forebay")
CHAINS = ("mosquitto_bridge", "forebay_chain")
GROUPS = ("mosquitto_group", "forebay_group")
METERED = (*GROUPS, "forebay_gathering")
# A reading of a meter is short: what a message costs beside it is what tells the two apart.
READING = 20
METERS = 1_000
# Enough to keep every queue of a chain busy, and little enough that the first member's queue isn't what is measured.
LEAD = 50_000
FRAME_RECORDS = 100
RATE = 5_000
CHAIN_WARMUP = 2


def run(yard, chosen):
    """Values by name, one a round; and what failed."""
    results = Results(chosen.rounds)
    for number in range(1, chosen.rounds + 1):
        for name in chosen.only:
            print(f"round {number} of {chosen.rounds}: {name}", file=sys.stderr)
            if name not in ONCE:
                globals()[f"_{name}"](yard, chosen, results)
    for name in ONCE:
        if name in chosen.only:
            print(f"once: {name}", file=sys.stderr)
            globals()[f"_{name}"](yard, chosen, results)
    return results


class Results:
    def __init__(self, rounds):
        self.rounds = rounds
        self.values = {}
        self.notes = {}
        self.failures = {}

    def add(self, name, value):
        if value is not None:
            self.values.setdefault(name, []).append(value)

    def note(self, name, report):
        """Whatever a report complains of is shown beside its number."""
        complaints = dict(report.get("errors", {}))
        for key in ("refused", "unacknowledged"):
            complaints[key] = report.get(key, 0)
        for key in ("lost", "duplicate", "reordered"):
            complaints[key] = (report.get("delivery") or {}).get(key, 0)
        for key, count in complaints.items():
            if count:
                seen = self.notes.setdefault(name, {})
                seen[key] = seen.get(key, 0) + count


def _load(yard, *arguments):
    command = [str(yard.forebay), "load", "--json", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"the load generator: {error}") from error
    except ValueError as error:
        raise Failure(f"the load generator ended with {done.returncode}: {done.stderr.strip()[-300:]}") from error


def _against(yard, results, kind, name, arguments, keep):
    """Starts a broker, loads it, and keeps what `keep` finds in the report."""
    broker = None
    try:
        broker = yard.start(kind)
        report = _load(yard, "--address", broker.address, *arguments(broker))
        results.note(name, report)
        for key, value in keep(report, broker).items():
            results.add(f"{name}.{key}", value)
    except Failure as failure:
        results.failures[name] = str(failure)
    finally:
        for running in list(yard.running):
            yard.stop(running)


def _acks(yard, chosen, results):
    """Acknowledged messages a second, many in flight."""
    for kind in BROKERS:
        _against(
            yard, results, kind, f"acks.{kind}",
            lambda _: ["--connections", 10, "--window", WINDOW, "--size", SIZE, "--seconds", chosen.seconds],
            lambda report, _: {"rate": report["messages_per_second"], "p50_us": _p50(report["puback_us"]), "window": report["window"]},
        )


def _one(yard, chosen, results):
    """One message in flight. Forebay takes turns with the bare disk, so that both see the same neighbours."""
    for kind in BROKERS:
        if kind != "forebay":
            _against(yard, results, kind, f"one.{kind}", lambda _: _one_load(chosen.seconds / 2), _one_found)
    broker = None
    try:
        broker = yard.start("forebay")
        _load(yard, "--address", broker.address, *FIRST_MINUTES)
        for _ in range(SLICES):
            disk = _load(yard, "--disk", yard.data, "--seconds", chosen.seconds / SLICES)
            report = _load(yard, "--address", broker.address, *_one_load(chosen.seconds / SLICES))
            results.note("one.forebay", report)
            for key, value in _one_found(report).items():
                results.add(f"one.forebay.{key}", value)
            in_place, puback = _p50(disk["in_place"]), _p50(report["puback_us"])
            results.add("disk.in_place.p50_us", in_place)
            results.add("disk.appended.p50_us", _p50(disk["appended"]))
            if in_place and puback:
                results.add("one.forebay.over_disk", puback / in_place)
    except Failure as failure:
        results.failures["one.forebay"] = str(failure)
    finally:
        if broker in yard.running:
            yard.stop(broker)


def _one_load(seconds):
    return ["--connections", 1, "--window", 1, "--size", SIZE, "--warmup", 0.2, "--seconds", seconds]


def _one_found(report, _broker=None):
    return {"p50_us": _p50(report["puback_us"])}


def _chain(yard, chosen, results):
    """From a publisher through two servers to a subscriber: what is carried, and how long it takes at a moderate rate."""
    for kind in CHAINS:
        _against(yard, results, kind, f"raw.{kind}", lambda broker: _chain_load(kind, broker, chosen, "--lead", LEAD), _delivered)
    for kind in CHAINS:
        _against(yard, results, kind, f"paced.{kind}", lambda broker: _chain_load(kind, broker, chosen, "--rate", RATE), _delivered)
    frames = ("--frames", FRAME_RECORDS, "--window", 20, "--lead", LEAD)
    _against(
        yard, results, "forebay_chain", "frames.forebay_chain",
        lambda broker: _chain_load("forebay_chain", broker, chosen, *frames), _delivered,
    )


def _chain_load(kind, broker, chosen, *more):
    return [
        "--subscribe-address", broker.subscribe, "--subscribers", 1, "--filter", _filter(kind), "--connections", 10,
        "--size", SIZE, "--warmup", CHAIN_WARMUP, "--seconds", chosen.seconds, *more,
    ]


def _delivered(report, _broker):
    delivery = report["delivery"]
    return {"rate": delivery["received_per_second"], "p50_us": _p50(delivery["end_to_end_us"])}


def _group(yard, chosen, results):
    """Three relays, of which two send through the third: what is carried, and what the last hop costs a record."""
    common = lambda kind, broker: ["--filter", _filter(kind), "--subscribe-address", broker.subscribe, "--subscribers", 1, "--size", READING]
    for kind in GROUPS:
        _against(
            yard, results, kind, f"full.{kind}",
            lambda broker: [*common(kind, broker), "--connections", 9, "--warmup", CHAIN_WARMUP, "--seconds", chosen.seconds, "--lead", LEAD],
            _carried,
        )
    for kind in METERED:
        _against(
            yard, results, kind, f"meters.{kind}",
            lambda broker: [*common(kind, broker), "--connections", METERS, "--rate", RATE, "--warmup", CHAIN_WARMUP, "--seconds", chosen.seconds],
            _carried,
        )


def _carried(report, broker):
    delivery = report["delivery"]
    return {"rate": delivery["received_per_second"], "bytes": brokers.last_hop_bytes(broker) / max(1, delivery["received"])}


def _filter(kind):
    return "data/bench/#" if kind.startswith("forebay") else "op/forward/bench/#"


def _idle(yard, chosen, results):
    """Resident memory of connections that say nothing."""
    for kind in BROKERS:
        _against(
            yard, results, kind, f"idle.{kind}",
            lambda broker: ["--idle", chosen.connections, "--pid", broker.pid],
            lambda report, _: {"bytes": report["resident_bytes_per_connection"], "connected": report["still_connected"]},
        )


def _query(yard, _chosen, results):
    """A page of one series' day among ten million records, over HTTP."""
    found = _said(yard, results, "query", [yard.binaries / "examples" / "first_page", "10000000", str(yard.data)])
    for page, p99 in re.findall(r"first page of (\d+) +p50 +\S+ +p99 +([0-9.]+)ms", found):
        results.add(f"query.page_of_{page}.p99_ms", float(p99))


def _size(yard, _chosen, results):
    """The data set in the archive beside the same in rows of SQLite."""
    found = _said(yard, results, "size", [yard.binaries / "examples" / "size_beside_rows"])
    for span, times in re.findall(r"segments of an? (\w+) .* 1/([0-9.]+) of the rows", found):
        results.add(f"size.{span}.times_smaller", float(times))


def _backlog(yard, _chosen, results):
    """Live readings while a million late ones drain."""
    script = pathlib.Path(__file__).resolve().parent / "backlog.py"
    found = _said(yard, results, "backlog", [sys.executable, script, "--binaries", yard.binaries])
    if found:
        report = json.loads(found)
        results.add("backlog.live_p99_ms", report["live_p99_ms"])
        results.add("backlog.drained", report["drained_records_per_second"])


def _bypass(yard, _chosen, results):
    """What anchoring takes from intake and forwarding, with the chain away, and with it there."""
    script = pathlib.Path(__file__).resolve().parent / "bypass.py"
    found = _said(yard, results, "bypass", [sys.executable, script, "--json", "--binaries", yard.binaries])
    for one in json.loads(found)["ratios"] if found else ():
        results.add(f"bypass.{one['what']}.{one['name']}.{one['case']}_over_{one['over']}", one["ratio"])


def _said(yard, results, name, command):
    """What a program prints; nothing, and a failure, if it can't."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        results.failures[name] = str(error)
        return ""
    if done.returncode != 0:
        results.failures[name] = done.stderr.strip()[-300:] or f"it ended with {done.returncode}"
        return ""
    return done.stdout


def _p50(percentiles):
    return percentiles["p50"] if percentiles else None
