"""Medians, ratios, targets, and the table."""

import os
import platform
import statistics
import subprocess

import brokers

AT_LEAST, AT_MOST = "at least", "at most"

# (what is asked, value over value (or None for the value itself), bound, number, unit)
TARGETS = (
    ("durable acks against Mosquitto's in-memory ones", "acks.forebay.rate", "acks.mosquitto.rate", AT_LEAST, 3.0, "x"),
    ("durable acks against rumqttd's in-memory ones", "acks.forebay.rate", "acks.rumqttd.rate", AT_LEAST, 0.5, "x"),
    ("one in flight: PUBACK p50 against a 4 KiB write + fdatasync", "one.forebay.over_disk", None, AT_MOST, 1.5, "x"),
    ("frames to a subscriber of the cloud", "frames.forebay_chain.rate", None, AT_LEAST, 150_000, "records/s"),
    ("raw QoS 1 end to end against a Mosquitto bridge", "raw.forebay_chain.rate", "raw.mosquitto_bridge.rate", AT_LEAST, 2.0, "x"),
    ("p50 end to end at 5,000/s against a Mosquitto bridge", "paced.forebay_chain.p50_us", "paced.mosquitto_bridge.p50_us", AT_MOST, 3.0, "x"),
    ("three relays, one proxy: records end to end against Mosquitto bridges", "full.forebay_group.rate", "full.mosquitto_group.rate", AT_LEAST, 3.0, "x"),
    ("last hop, bytes a record of 1,000 meters against the bridge's", "meters.forebay_group.bytes", "meters.mosquitto_group.bytes", AT_MOST, 0.5, "x"),
    ("the same with relays that gather for 10 ms", "meters.forebay_gathering.bytes", "meters.mosquitto_group.bytes", AT_MOST, 0.5, "x"),
    ("last hop, bytes a record at full speed against the bridge's", "full.forebay_group.bytes", "full.mosquitto_group.bytes", AT_MOST, 0.5, "x"),
    ("first page of one series' day of 10 million records, p99", "query.page_of_1000.p99_ms", None, AT_MOST, 10, "ms"),
    ("archive of the data set, segments of a week, against rows", "size.week.times_smaller", None, AT_LEAST, 10, "x smaller"),
    ("archive of the data set, segments of an hour, against rows", "size.hour.times_smaller", None, AT_LEAST, 10, "x smaller"),
    ("p99 of 2,000 live readings/s while a million late ones drain", "backlog.live_p99_ms", None, AT_MOST, 250, "ms"),
    ("late readings drained a second meanwhile", "backlog.drained", None, AT_LEAST, 100_000, "records/s"),
    ("chain refusing: records taken a second against no anchoring", "bypass.town.intake.refusing_over_off", None, AT_LEAST, 0.97, "x"),
    ("chain refusing: records through the cloud a second", "bypass.town.forwarding.refusing_over_off", None, AT_LEAST, 0.97, "x"),
    ("chain hung: records taken a second", "bypass.town.intake.hung_over_off", None, AT_LEAST, 0.97, "x"),
    ("chain hung: records through the cloud a second", "bypass.town.forwarding.hung_over_off", None, AT_LEAST, 0.97, "x"),
    ("chain failing: records taken a second", "bypass.town.intake.failing_over_off", None, AT_LEAST, 0.97, "x"),
    ("chain failing: records through the cloud a second", "bypass.town.forwarding.failing_over_off", None, AT_LEAST, 0.97, "x"),
    ("hashing, batching, anchoring: records taken a second against none", "bypass.town.intake.anchoring_over_unhashed", None, AT_LEAST, 0.97, "x"),
    ("resident memory of an idle connection", "idle.forebay.bytes", None, AT_MOST, 15 * 1024, "bytes"),
)

# A durable acknowledgement waits for one sync at least: a smaller ratio says that the disk was disturbed while it was timed.
LEAST_CREDIBLE = {"one.forebay.over_disk": 1.0}

# (row, value, unit) in the order in which they are printed
ROWS = (
    ("acknowledged/s, 10 x 200 in flight", "acks.{}.rate", ("mosquitto", "rumqttd", "forebay"), "{:,.0f}"),
    ("PUBACK p50, one in flight", "one.{}.p50_us", ("mosquitto", "rumqttd", "forebay"), "{:,.0f} us"),
    ("4 KiB write + fdatasync p50", "disk.{}.p50_us", ("in_place", "appended"), "{:,.0f} us"),
    ("end to end, raw QoS 1, records/s", "raw.{}.rate", ("mosquitto_bridge", "forebay_chain"), "{:,.0f}"),
    ("end to end p50 at 5,000/s", "paced.{}.p50_us", ("mosquitto_bridge", "forebay_chain"), "{:,.0f} us"),
    ("end to end, frames, records/s", "frames.{}.rate", ("forebay_chain",), "{:,.0f}"),
    ("three relays, one proxy, records/s", "full.{}.rate", ("mosquitto_group", "forebay_group"), "{:,.0f}"),
    ("  bytes a record on the last hop", "full.{}.bytes", ("mosquitto_group", "forebay_group"), "{:,.1f}"),
    ("1,000 meters at 5,000/s, bytes a record", "meters.{}.bytes", ("mosquitto_group", "forebay_group", "forebay_gathering"), "{:,.1f}"),
    ("a page of 1,000 of 10 million, p99", "query.{}.p99_ms", ("page_of_1000",), "{:,.1f} ms"),
    ("times smaller than rows, by segment", "size.{}.times_smaller", ("month", "week", "day", "hour"), "{:,.1f}"),
    ("live p99 while a backlog drains", "backlog.{}", ("live_p99_ms",), "{:,.0f} ms"),
    ("resident bytes of an idle connection", "idle.{}.bytes", ("mosquitto", "rumqttd", "forebay"), "{:,.0f}"),
)


def judge(results):
    """Everything that was found, ready to be written."""
    medians = {name: statistics.median(values) for name, values in results.values.items()}
    targets = []
    for what, name, over, bound, number, unit in TARGETS:
        value = medians.get(name)
        if value is not None and over is not None:
            value = value / medians[over] if medians.get(over) else None
        credible = value is None or value >= LEAST_CREDIBLE.get(name, 0)
        met = value is not None and credible and (value >= number if bound == AT_LEAST else value <= number)
        targets.append({"what": what, "value": value, "bound": bound, "target": number, "unit": unit, "met": met, "credible": credible})
    wanted = [target for target in targets if target["value"] is not None]
    return {
        "targets": wanted,
        "medians": medians,
        "rounds": results.values,
        "complaints": results.notes,
        "failures": results.failures,
    }


def machine():
    """What the numbers were measured on and with."""
    help_ = subprocess.run([brokers.mosquitto(), "-h"], capture_output=True, text=True, check=False).stdout
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "mosquitto": help_.splitlines()[0].removeprefix("mosquitto version ") if help_ else None,
        "rumqttd": "0.20",
    }


def _processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def busy():
    """The load average before the run, and whether somebody else is using the processors."""
    average = os.getloadavg()[0]
    return {"load_average_at_start": average, "busy": average > len(os.sched_getaffinity(0)) / 4}


def _word(target):
    if not target["credible"]:
        return "NOT CREDIBLE: less than one sync, the machine was disturbed; measure again"
    return "met" if target["met"] else "MISSED"


def show(outcome):
    medians, rounds = outcome["medians"], outcome["rounds"]
    print(f"\n{'median of the rounds (lowest to highest)':<40}")
    for row, pattern, kinds, form in ROWS:
        cells = []
        for kind in kinds:
            name = pattern.format(kind)
            if name in medians:
                low, high = min(rounds[name]), max(rounds[name])
                spread = f" ({low:,.0f} to {high:,.0f})" if len(rounds[name]) > 1 else ""
                cells.append(f"{kind.replace('_', ' ')} {form.format(medians[name])}{spread}")
        if cells:
            print(f"  {row:<38} {'; '.join(cells)}")
    if outcome["targets"]:
        print(f"\n{'target':<62} {'measured':>14}  {'asked':<22}")
    for target in outcome["targets"]:
        form = "{:,.2f} {}" if target["unit"] == "x" else "{:,.0f} {}"
        value = form.format(target["value"], target["unit"])
        asked = f"{target['bound']} {form.format(target['target'], target['unit'])}"
        print(f"  {target['what']:<60} {value:>14}  {asked:<26} {_word(target)}")
    if outcome["machine"]["busy"]:
        load = outcome["machine"]["load_average_at_start"]
        print(f"  WARNING: the machine was busy before the run (load average {load:.1f}): these numbers say little")
    for name, complaints in outcome["complaints"].items():
        print(f"  note: {name}: {', '.join(f'{what} {count:,}' for what, count in complaints.items())}")
    for name, failure in outcome["failures"].items():
        print(f"  FAILED: {name}: {failure}")
