"""Starting and stopping the brokers that are compared, each on ports of its own and in a directory of its own."""

import ctypes
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

READY_SECONDS = 15
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 1000
set_tcp_nodelay true
sys_interval 0
log_dest none
"""

BRIDGE = """
connection bench-{name}
address 127.0.0.1:{port}
topic op/forward/# out 1
cleansession true
notifications false
"""


# What a relay of a group is told, beside who may connect: everybody on this machine.
CLOUD = """
listen = ["127.0.0.1:{port}"]
http = "127.0.0.1:{http}"
data = "{data}"
access = "anonymous"

[[group]]
name = "bench"
members = {members}
term = {{ time = "1h" }}
"""

RELAY = """
relay = "{name}"
listen = ["127.0.0.1:{port}"]
data = "{data}"
access = "anonymous"

[cloud]
host = "127.0.0.1"
port = {cloud}

[group]
name = "bench"
advertise = "127.0.0.1:{port}"
"""

# Relays that wait for company before they commit: fewer, fuller frames on a way that is paid by the byte.
GATHERING = """
[storage]
commit_wait = "10ms"
"""

MEMBERS = 3
# A group has its proxy, and the others have found the way through it.
SETTLED_SECONDS = 20


class Failure(Exception):
    """A measurement could not be made; the message says why."""


def mosquitto():
    """Where Mosquitto is, or None. Debian keeps it out of users' PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """Processes of one broker, or of a chain of two: publish to `address`, subscribe at `subscribe`."""

    def __init__(self):
        self.processes = []
        self.address = None
        self.subscribe = None

    @property
    def pid(self):
        return self.processes[0].pid


def last_hop_bytes(broker):
    """What the relays have sent to the last server of a chain and received from it, on the connections that are open now."""
    return sum(_connections(broker, broker.subscribe.rsplit(":", 1)[1]))


def _connections(broker, port):
    """Bytes sent and received of each connection of the broker's processes to a port."""
    seen = subprocess.run(
        ["ss", "-tinpHO", "state", "established", f"( dport = :{port} )"], capture_output=True, text=True, check=False
    )
    own = {f"pid={process.pid}," for process in broker.processes}
    lines = [line for line in seen.stdout.splitlines() if any(pid in line for pid in own)]
    return [sum(int(count) for count in re.findall(r"bytes_(?:acked|received):(\d+)", line)) for line in lines]


class Yard:
    """Starts brokers, and ends them whatever happens."""

    def __init__(self, binaries: pathlib.Path, data: pathlib.Path):
        self.binaries = binaries
        self.forebay = binaries / "forebay"
        self.rumqttd = binaries / "examples" / "stock_rumqttd"
        self.data = data
        self.running = []

    def __enter__(self):
        self.data.mkdir(parents=True)
        return self

    def __exit__(self, *_):
        for broker in list(self.running):
            self.stop(broker)
        shutil.rmtree(self.data, ignore_errors=True)

    def start(self, kind):
        """Starts the broker or chain of that name."""
        broker = Running()
        self.running.append(broker)
        try:
            getattr(self, f"_{kind}")(broker)
        except Failure:
            self.stop(broker)
            raise
        return broker

    def stop(self, broker):
        for process in broker.processes:
            process.terminate()
        for process in broker.processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.remove(broker)
        for directory in self.data.iterdir():
            shutil.rmtree(directory, ignore_errors=True)

    def _mosquitto(self, broker):
        port = free_port()
        self._spawn_mosquitto(broker, port, MOSQUITTO.format(port=port))
        broker.address = broker.subscribe = f"127.0.0.1:{port}"

    def _mosquitto_bridge(self, broker):
        near, far = free_port(), free_port()
        self._spawn_mosquitto(broker, far, MOSQUITTO.format(port=far))
        self._spawn_mosquitto(broker, near, MOSQUITTO.format(port=near) + BRIDGE.format(name="last", port=far))
        broker.address, broker.subscribe = f"127.0.0.1:{near}", f"127.0.0.1:{far}"

    def _rumqttd(self, broker):
        port = free_port()
        self._spawn(broker, [self.rumqttd, str(port)], port)
        broker.address = broker.subscribe = f"127.0.0.1:{port}"

    def _forebay(self, broker):
        port = free_port()
        self._spawn(broker, self._role("relay", port), port)
        broker.address = broker.subscribe = f"127.0.0.1:{port}"

    def _forebay_chain(self, broker):
        near, far = free_port(), free_port()
        self._spawn(broker, [*self._role("cloud", far), "--http", f"127.0.0.1:{free_port()}"], far)
        self._spawn(broker, [*self._role("relay", near), "--cloud", f"127.0.0.1:{far}"], near)
        broker.address, broker.subscribe = f"127.0.0.1:{near}", f"127.0.0.1:{far}"

    def _mosquitto_group(self, broker):
        """Two bridges to a third one, which bridges to the last: the shape of a group with its proxy."""
        far, proxy = free_port(), free_port()
        self._spawn_mosquitto(broker, far, MOSQUITTO.format(port=far))
        self._spawn_mosquitto(broker, proxy, MOSQUITTO.format(port=proxy) + BRIDGE.format(name="last", port=far))
        broker.address, broker.subscribe = f"127.0.0.1:{proxy}", f"127.0.0.1:{far}"
        for _ in range(MEMBERS - 1):
            port = free_port()
            self._spawn_mosquitto(broker, port, MOSQUITTO.format(port=port) + BRIDGE.format(name=port, port=proxy))
            broker.address += f",127.0.0.1:{port}"

    def _forebay_gathering(self, broker):
        self._forebay_group(broker, GATHERING)

    def _forebay_group(self, broker, more=""):
        far, http, names = free_port(), free_port(), [f"relay-{number}" for number in range(MEMBERS)]
        config = CLOUD.format(port=far, http=http, data=self._directory("cloud"), members=json.dumps(names))
        self._spawn_role(broker, "cloud", far, config)
        ports = []
        for name in names:
            ports.append(free_port())
            config = RELAY.format(name=name, port=ports[-1], data=self._directory("relay"), cloud=far)
            self._spawn_role(broker, "relay", ports[-1], config + more)
        broker.address, broker.subscribe = ",".join(f"127.0.0.1:{port}" for port in ports), f"127.0.0.1:{far}"
        deadline = time.monotonic() + SETTLED_SECONDS
        while len(_connections(broker, far)) != 1:
            if time.monotonic() > deadline:
                raise Failure(f"the relays did not find one proxy within {SETTLED_SECONDS} s")
            time.sleep(0.1)

    def _spawn_role(self, broker, role, port, config):
        path = self._directory("config") / f"{role}.toml"
        path.write_text(config)
        self._spawn(broker, [self.forebay, role, "--config", str(path)], port)

    def _role(self, role, port):
        return [self.forebay, role, "--dev", "--listen", f"127.0.0.1:{port}", "--data", str(self._directory(role))]

    def _directory(self, name):
        directory = self.data / f"{name}-{time.monotonic_ns()}"
        directory.mkdir()
        return directory

    def _spawn_mosquitto(self, broker, port, config):
        path = self._directory("mosquitto") / "mosquitto.conf"
        path.write_text(config)
        self._spawn(broker, [mosquitto(), "-c", str(path)], port)

    def _spawn(self, broker, command, port):
        log = self.data.parent / f"{pathlib.Path(command[0]).name}.log"
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_die_with_parent)
        except OSError as error:
            raise Failure(f"{command[0]} could not be started: {error.strerror}") from error
        broker.processes.append(process)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Failure(f"{' '.join(map(str, command[:2]))} ended with {process.returncode}; its output is in {log}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failure(f"{command[0]} did not listen within {READY_SECONDS} s; its output is in {log}")
