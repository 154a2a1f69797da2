#!/usr/bin/env python3
"""Where the time of a reading goes between a device and a reader at the cloud.

Records the system calls of a relay and a cloud under a steady load with perf (as root: the syscalls:* tracepoints) and tells how long
each stage takes. Nothing in the servers is changed for it; perf itself takes some of the two cores. The first message is recorded, so
the n-th reading is found at each stage by counting.

    cargo build --release --bin forebay && scripts/bench.d/stages.py
"""

import argparse
import bisect
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "bench.d"))
sys.dont_write_bytecode = True

import brokers  # noqa: E402

CALLS = ("recvfrom", "sendto", "writev", "fsync", "fdatasync")
SYNCS, WRITES = ("fsync", "fdatasync"), ("sendto", "writev")
SIZE, CONNECTIONS = 100, 10
PUBACK = 4


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_000, help="readings a second (default 5000)")
    parser.add_argument("--seconds", type=float, default=2, help="length of the load (default 2)")
    parser.add_argument("--binaries", type=pathlib.Path, default=ROOT / "target" / "release", help=argparse.SUPPRESS)
    return parser.parse_args()


def sockets(pid):
    """Local and remote port of each connection, by file descriptor."""
    seen = subprocess.run(["ss", "-tnpHO", "state", "established"], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in seen.splitlines():
        words = line.split()
        for _, fd in [pair for pair in re.findall(r"pid=(\d+),fd=(\d+)", line) if int(pair[0]) == pid]:
            found[int(fd)] = tuple(int(word.rsplit(":", 1)[1]) for word in words[2:4])
    return found


def record(yard, chosen, trace):
    """Loads a chain and records it; gives what is needed to read the trace, and what the load generator saw."""
    chain = yard.start("forebay_chain")
    cloud, relay = chain.processes
    events = ",".join(f"syscalls:sys_{edge}_{call}" for call in CALLS for edge in ("enter", "exit"))
    perf = subprocess.Popen(["perf", "record", "-q", "-o", trace, "-m", "8192", "-e", events, "-p", f"{cloud.pid},{relay.pid}"])
    time.sleep(1)
    load = [
        str(yard.forebay), "load", "--json", "--address", chain.address, "--subscribe-address", chain.subscribe, "--subscribers", "1",
        "--filter", "data/bench/#", "--connections", CONNECTIONS, "--size", SIZE, "--warmup", 0, "--seconds", chosen.seconds, "--rate", chosen.rate,
    ]
    with subprocess.Popen(list(map(str, load)), stdout=subprocess.PIPE) as loading:
        time.sleep(chosen.seconds / 2)
        ports = {relay.pid: sockets(relay.pid), cloud.pid: sockets(cloud.pid)}
        report = json.loads(loading.communicate()[0])
    perf.send_signal(2)
    perf.wait()
    near, far = (int(address.rsplit(":", 1)[1]) for address in (chain.address, chain.subscribe))
    return relay.pid, cloud.pid, near, far, ports, report


def calls(trace):
    """Every call as (process, name, descriptor, begin, end, result), times in microseconds."""
    script = subprocess.run(["perf", "script", "-i", trace, "--ns", "-F", "pid,tid,time,event,trace"], capture_output=True, text=True, check=True)
    begun = {}
    for line in script.stdout.splitlines():
        found = re.match(r"\s*(\d+)/(\d+)\s+([\d.]+):\s+syscalls:sys_(enter|exit)_(\w+): (.*)", line)
        if not found:
            continue
        process, thread, at, edge, name, rest = found.groups()
        if edge == "enter":
            begun[thread] = (name, int(re.search(r"fd: (0x\w+)", rest)[1], 16), float(at) * 1e6)
        elif thread in begun and begun[thread][0] == name:
            _, descriptor, begin = begun.pop(thread)
            result = int(rest.split()[0], 16)
            if result < 1 << 63:
                yield int(process), name, descriptor, begin, float(at) * 1e6, result


def expand(events, size):
    """The time of each message: events carry whole ones."""
    return [at for at, count in events if count % size == 0 for _ in range(count // size)]


def behind(times, since):
    """From each of `since` to the next of `times`."""
    places = ((at, bisect.bisect_left(times, at)) for at in since)
    return [times[place] - at for at, place in places if place < len(times)]


def stages(found, traced):
    relay, cloud, near, far, ports, _ = found
    devices = {fd for fd, (local, _) in ports[relay].items() if local == near}
    uplink = {fd for fd, (_, remote) in ports[relay].items() if remote == far}
    uplink_ports = {local for local, remote in ports[relay].values() if remote == far}
    relays = {fd for fd, (local, remote) in ports[cloud].items() if local == far and remote in uplink_ports}
    readers = {fd for fd, (local, _) in ports[cloud].items() if local == far} - relays
    taken, answered, sent, came, delivered, syncs = [], [], [], [], [], {relay: [], cloud: []}
    for process, name, fd, begin, end, result in traced:
        if name in SYNCS:
            syncs[process].append((begin, end))
        elif name == "recvfrom" and result > 0:
            if process == relay and fd in devices:
                taken.append((end, result))
            elif process == cloud and fd in relays:
                came.append(end)
        elif name in WRITES:
            if process == relay and fd in devices:
                answered.append((begin, result))
            elif process == relay and fd in uplink:
                sent.append(begin)
            elif process == cloud and fd in readers:
                delivered.append(begin)
    # Connection packets are smaller than a message, and their answers are no multiple of a PUBACK.
    message = min(count for _, count in taken if count > SIZE)
    messages, acks = expand(taken, message), expand(answered, PUBACK)
    begins, ends = [begin for begin, _ in syncs[relay]], [end for _, end in syncs[relay]]
    waited, synced, told = [], [], []
    for took, ack in zip(messages, acks):
        place = bisect.bisect_left(ends, ack) - 1
        if place >= 0:
            waited.append(begins[place] - took)
            synced.append(ends[place] - begins[place])
            told.append(ack - ends[place])
    begun = [begin for begin, _ in syncs[cloud]]
    busy = sum(1 for at in came if (place := bisect.bisect(begun, at)) > 0 and at < syncs[cloud][place - 1][1])
    return [
        ("relay: read, until the sync of its group begins", waited),
        ("relay: that sync", synced),
        ("relay: end of the sync, until the PUBACK is written", told),
        ("relay: read, until the next frame is written to the uplink", behind(sent, messages)),
        ("uplink: written, until the cloud has read", behind(came, sent)),
        ("cloud: read, until the next delivery is written", behind(delivered, came)),
        ("cloud: read, until the next sync begins", behind(begun, came)),
        ("cloud: a sync", [end - begin for begin, end in syncs[cloud]]),
    ], {
        "readings": len(messages), "frames": len(sent), "relay syncs": len(syncs[relay]), "cloud syncs": len(syncs[cloud]),
        "cloud reads": len(came), "of these while it synced": busy,
    }


def main():
    chosen = options()
    if os.geteuid() != 0 or shutil.which("perf") is None:
        sys.exit("stages: wants root and perf")
    data = ROOT / "target" / "bench" / "stages"
    shutil.rmtree(data, ignore_errors=True)
    data.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, brokers.Yard(chosen.binaries, data) as yard:
        trace = str(pathlib.Path(folder) / "trace")
        found = record(yard, chosen, trace)
        rows, counts = stages(found, calls(trace))
    for name, values in rows:
        if values:
            ordered = sorted(values)
            print(f"  {name:<62} p50 {ordered[len(ordered) // 2]:7,.0f} us  mean {statistics.mean(ordered):7,.0f}  p90 {ordered[len(ordered) * 9 // 10]:7,.0f}")
    print("  " + "; ".join(f"{name} {count:,}" for name, count in counts.items()))
    report = found[-1]
    print(f"  PUBACK p50 {report['puback_us']['p50']:,.0f} us; to the reader p50 {report['delivery']['end_to_end_us']['p50']:,.0f} us, with perf beside it")


if __name__ == "__main__":
    main()
