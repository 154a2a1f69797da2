#!/usr/bin/env python3
"""B5: what anchoring takes from the business path.

A relay and a cloud on this machine, with the release binary, take frames at full speed and forward them, with the chain in one state
after the other, in rounds; and an agent takes a file, sends it and anchors. Reported against the same round without anchoring: records
acknowledged a second, records a second until all are committed at the cloud, and processor time a million records, counted until
nothing is left to do, so that no work is overlooked for being done later. The processor time stays meaningful on a busy machine.

    cargo build --release --bin forebay && scripts/bench.d/bypass.py
"""

import argparse
import http.server
import json
import os
import pathlib
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "bench.d"))
sys.dont_write_bytecode = True

import brokers  # noqa: E402
import measures  # noqa: E402
from brokers import Failure, free_port  # noqa: E402

# What the chain is like. Without digests nobody learns the secrets of the epochs, so that no record is hashed anywhere.
OFF, REFUSING, HUNG, FAILING, ANCHORING, UNHASHED = "off", "refusing", "hung", "failing", "anchoring", "unhashed"
TOWN = (OFF, REFUSING, HUNG, FAILING, ANCHORING, UNHASHED)
AGENT = (OFF, REFUSING, HUNG, FAILING, ANCHORING)
# Which case is compared with which: the chain away in each way, anchoring with all that it takes, and the digests of it alone.
COMPARED = tuple((case, OFF) for case in (REFUSING, HUNG, FAILING)) + ((ANCHORING, UNHASHED), (OFF, UNHASHED))
LOSS_MAX = 0.03

FRAME_RECORDS, CONNECTIONS, WINDOW, SIZE = 100, 10, 20, 100
PATIENCE_SECONDS = 120
# A process has nothing left to do when it used at most so many clock ticks in each of two seconds: an idle relay uses about one.
CALM_TICKS, CALM_LOOKS = 4, 2
TICK = os.sysconf("SC_CLK_TCK")

ANCHOR = """
[anchor]
rpc = "{rpc}"
contract = "{contract}"
key_file = "{key}"
confirmation = {{ depth = 2 }}
batch = {{ age = "1s" }}
"""

CLOUD = """
listen = ["127.0.0.1:{port}"]
http = "127.0.0.1:{http}"
admin = "127.0.0.1:{admin}"
data = "{data}"
access = "anonymous"

[storage]
segment_age = "2s"
"""

AGENT_CONFIG = """
sensor = "bench/agent"
data = "{data}"

[[relays]]
name = "relay"
address = "{relay}"

[[stream]]
match = "#"
operation = "forward"

[[input]]
kind = "csv"
name = "file"
path = "{csv}"
time = "time"
columns = {{ "kw" = "power/active" }}

[chunk]
age_max = "1s"

[admin]
listen = "127.0.0.1:{admin}"
"""


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each in another order (default 3)")
    parser.add_argument("--records", type=int, default=3_000_000, help="records of a run through relay and cloud (default 3000000)")
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the agent's file; 0 leaves the agent out (default 300000)")
    parser.add_argument("--cases", default=",".join(TOWN), help=f"comma-separated, of {','.join(TOWN)}")
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / "target" / "release", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a rate falls by more than 3 %%")
    chosen = parser.parse_args()
    chosen.cases = chosen.cases.split(",")
    if not set(chosen.cases) <= set(TOWN) or chosen.rounds < 1 or chosen.records < FRAME_RECORDS:
        parser.error("unknown case, or nothing to do")
    return chosen


class Hung:
    """Takes connections and never answers."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.held = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            self.held.append(self.listener.accept())


class Failing:
    """Answers every request with an error."""

    def __init__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                error = {"code": -32603, "message": "internal error"}
                body = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "error": error}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()


def rpc(address, method, *params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer).get("result")


class Chain(brokers.Yard):
    """A local chain with the contract, beside whatever is measured."""

    def __init__(self, binaries, data):
        super().__init__(binaries, data)
        self.keys = 0

    def __enter__(self):
        super().__enter__()
        anvil = subprocess.run([ROOT / "scripts" / "anvil"], capture_output=True, text=True, check=True).stdout.strip()
        running, port = brokers.Running(), free_port()
        self.running.append(running)
        self._spawn(running, [anvil, "--port", str(port), "--block-time", "1", "--silent"], port)
        self.rpc = f"http://127.0.0.1:{port}"
        self.contract = self._forebay_says("anchor", "deploy", "--rpc", self.rpc, "--key-file", self.key())
        return self

    def key(self):
        """A new account that can pay."""
        self.keys += 1
        file = self.data / f"key-{self.keys}"
        # Raw, as for a development chain: no passphrase has to be told to anybody.
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32))
        account = self._forebay_says("keys", "address", file)
        rpc(self.rpc, "anvil_setBalance", account, hex(10**20))
        return file

    def _forebay_says(self, *words):
        done = subprocess.run([self.forebay, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Failure(f"forebay {' '.join(map(str, words[:2]))}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()


class Bench(brokers.Yard):
    """Relay and cloud, or relay and agent, with the chain in some state."""

    def __init__(self, binaries, data, chain):
        super().__init__(binaries, data)
        self.chain = chain
        self.hung, self.failing = Hung(), Failing()
        self.nobody = free_port()

    def anchor(self, case):
        ports = {REFUSING: self.nobody, HUNG: self.hung.port, FAILING: self.failing.port}
        if case in (OFF, UNHASHED):
            return ""
        address = self.chain.rpc if case == ANCHORING else f"http://127.0.0.1:{ports[case]}"
        return ANCHOR.format(rpc=address, contract=self.chain.contract, key=self.chain.key())

    def town(self, case):
        far, near = free_port(), free_port()
        broker = brokers.Running()
        self.running.append(broker)
        broker.http, broker.admin = free_port(), free_port()
        config = CLOUD.format(port=far, http=broker.http, admin=broker.admin, data=self._directory("cloud"))
        self._spawn_role(broker, "cloud", far, config + self.anchor(case))
        self._spawn(broker, [*self._role("relay", near), "--cloud", f"127.0.0.1:{far}"], near)
        broker.address = f"127.0.0.1:{near}"
        return broker

    def agent(self, case, rows):
        near = free_port()
        broker = brokers.Running()
        self.running.append(broker)
        self._spawn(broker, self._role("relay", near), near)
        csv = self._directory("input") / "readings.csv"
        with csv.open("w") as file:
            file.write("time,kw\n")
            for row in range(rows):
                minutes, second = divmod(row, 60)
                hours, minute = divmod(minutes, 60)
                file.write(f"2016-01-{1 + hours // 24 % 28:02}T{hours % 24:02}:{minute:02}:{second:02}Z,{row % 9973 / 1000}\n")
        broker.admin = free_port()
        config = AGENT_CONFIG.format(data=self._directory("agent"), relay=f"127.0.0.1:{near}", csv=csv, admin=broker.admin)
        broker.began = time.monotonic()
        self._spawn_role(broker, "agent", broker.admin, config + self.anchor(case))
        return broker


def metrics(broker):
    """Values by name, and by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.admin}/metrics", timeout=10) as answer:
        found = re.findall(r"^(\w+(?:\{[^}]*\})?) ([0-9.]+)$", answer.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def anchored(broker):
    """Records that are on chain for good, as the cloud says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.http}/api/v1/status", timeout=10) as answer:
        return json.load(answer)["batches"]["records_final"]


def ticks(process):
    """User and system time of all threads of a process."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def until(what, holds, every=0.05):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {PATIENCE_SECONDS} s")
        time.sleep(every)


def until_calm(processes):
    """Until nothing is left to do, and then the ticks of each."""
    deadline, looks = time.monotonic() + PATIENCE_SECONDS, 0
    before = [ticks(process) for process in processes]
    while looks < CALM_LOOKS:
        if time.monotonic() > deadline:
            raise Failure(f"it does not come to rest within {PATIENCE_SECONDS} s")
        time.sleep(1)
        now = [ticks(process) for process in processes]
        looks = looks + 1 if all(one - other <= CALM_TICKS for one, other in zip(now, before)) else 0
        before = now
    return before


def measure_town(bench, case, records):
    broker = bench.town(case)
    cloud, relay = broker.processes
    hidden = ["--unannounced"] if case == UNHASHED else []
    load = ["--connections", CONNECTIONS, "--window", WINDOW, "--size", SIZE, "--frames", FRAME_RECORDS]
    began = time.monotonic()
    report = measures._load(bench, "--address", broker.address, *load, *hidden, "--messages", records // FRAME_RECORDS)
    taken = report["acknowledged"] * FRAME_RECORDS
    if report["refused"] or report["unacknowledged"] or report["errors"]:
        raise Failure(f"not everything was taken: {report}")
    until("all is at the cloud", lambda: metrics(broker).get("cloud_records_ingested_total", 0) >= taken)
    arrived = time.monotonic() - began
    if case == ANCHORING:
        until("all is on chain", lambda: anchored(broker) >= taken, every=1)
    used = until_calm([cloud, relay])
    bench.stop(broker)
    return {
        "intake": report["records_per_second"],
        "forwarding": taken / arrived,
        "cloud_cpu": used[0] / TICK / taken * 1e6,
        "relay_cpu": used[1] / TICK / taken * 1e6,
        "cpu": sum(used) / TICK / taken * 1e6,
    }


def measure_agent(bench, case, rows):
    broker = bench.agent(case, rows)
    agent = broker.processes[1]
    answered = 'agent_records_answered_total{answer="Accepted"}'
    until("all is at the relay", lambda: metrics(broker).get(answered, 0) >= rows)
    sent = time.monotonic() - broker.began
    if case == ANCHORING:
        open_states = [f'anchor_batches{{state="{state}"}}' for state in ("BATCHED", "SIGNED", "SENT", "MINED")]

        def all_final():
            seen = metrics(broker)
            return seen.get('anchor_batches{state="FINAL"}', 0) and not any(seen.get(state, 0) for state in open_states)

        until("all is on chain", all_final, every=1)
    used = until_calm([agent])
    bench.stop(broker)
    return {"forwarding": rows / sent, "cpu": used[0] / TICK / rows * 1e6}


def rotated(cases, number):
    start = number % max(1, len(cases))
    return cases[start:] + cases[:start]


def measure(bench, chosen):
    """Values by (what, case, name), one a round."""
    found = {}
    town = [case for case in TOWN if case in chosen.cases]
    agent = [case for case in AGENT if case in chosen.cases] if chosen.rows else []
    for number in range(chosen.rounds):
        for what, cases, work, size in (("town", town, measure_town, chosen.records), ("agent", agent, measure_agent, chosen.rows)):
            for case in rotated(cases, number):
                print(f"round {number + 1} of {chosen.rounds}: {what}, {case}", file=sys.stderr)
                for name, value in work(bench, case, size).items():
                    found.setdefault((what, case, name), []).append(value)
    return found


def judge(found):
    """Each ratio: of the medians, and its spread over the rounds."""
    ratios = []
    for what, names in (("town", ("intake", "forwarding", "cpu", "cloud_cpu", "relay_cpu")), ("agent", ("forwarding", "cpu"))):
        for case, over in COMPARED:
            for name in names:
                values, bases = found.get((what, case, name)), found.get((what, over, name))
                if values and bases:
                    each = [value / base for value, base in zip(values, bases)]
                    ratios.append({
                        "what": what, "case": case, "over": over, "name": name,
                        "ratio": statistics.median(values) / statistics.median(bases),
                        "lowest": min(each), "highest": max(each),
                        "is_rate": not name.endswith("cpu"),
                    })
    return ratios


def show(found, ratios):
    names = {"intake": "records/s taken", "forwarding": "records/s through", "cpu": "cpu s/million"}
    for (what, case, name), values in found.items():
        if name in names:
            spread = f"({min(values):,.2f} to {max(values):,.2f})"
            print(f"  {what:<6} {case:<10} {names[name]:<18} {statistics.median(values):>14,.2f} {spread}")
    print(f"\n  {'':<6} {'case':<10} {'over':<9} {'what':<11} {'ratio':>7}  spread of the rounds")
    for one in ratios:
        word = "" if not one["is_rate"] else "met" if one["ratio"] >= 1 - LOSS_MAX else "MISSED"
        spread = f"{one['lowest']:.3f} to {one['highest']:.3f}"
        print(f"  {one['what']:<6} {one['case']:<10} {one['over']:<9} {one['name']:<11} {one['ratio']:>7.3f}  {spread}  {word}")


def main():
    chosen = options()
    data = ROOT / "target" / "bench" / f"bypass-{os.getpid()}"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    try:
        with Chain(chosen.binaries, data / "chain") as chain, Bench(chosen.binaries, data / "bench", chain) as bench:
            found = measure(bench, chosen)
    except Failure as failure:
        sys.exit(f"bypass: {failure}")
    finally:
        shutil.rmtree(data, ignore_errors=True)
    ratios = judge(found)
    if chosen.json:
        rounds = {" ".join(key): values for key, values in found.items()}
        print(json.dumps({"ratios": ratios, "rounds": rounds}, indent=1))
    else:
        show(found, ratios)
    missed = any(one["is_rate"] and one["ratio"] < 1 - LOSS_MAX for one in ratios)
    sys.exit(1 if missed and chosen.strict else 0)


if __name__ == "__main__":
    main()
