"""Starts, kills, watches and clears away one chatd: what the integration tests know about its process.

The environment variable CHATD names the binary (build/chatd when it is not set). A test knows the server by
three things only: its port, its log lines and what Linux tells about its processes under /proc.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Ends a hang. No test passes or fails because something took a part of it.
DEADLINE = float(os.environ.get("TEST_DEADLINE", "30"))

# The guide's limits would stop most tests: they are off unless a test asks for them.
TEST_ENV = {
    "HOST": "127.0.0.1",
    "PORT": "0",
    "NODE_ENV": "production",
    "MAX_CONNECTIONS_PER_IP": "0",
    "MESSAGE_RATE_LIMIT": "0",
    "TYPING_RATE_LIMIT": "0",
}

# What the caller's environment may pass on. Settings of chatd never leak in from outside.
PASSED_ON = ("PATH", "HOME", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS",
             "MONGOC_DISABLE_SHM")

# Never acceptable, whatever a test allows.
BROKEN = re.compile(
    r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion .* failed|"
    r"free\(\): |malloc\(\): |buffer overflow detected"
)


def binary():
    """The chatd under test, as an absolute path."""
    path = Path(os.environ.get("CHATD", "build/chatd"))
    path = path if path.is_absolute() else ROOT / path
    if not path.exists():
        raise AssertionError(f"{path} does not exist: run `make` or set CHATD")
    return str(path)


def until(check, why, deadline=None):
    """Calls `check` until it returns something true, which is handed back."""
    end = time.monotonic() + (deadline or DEADLINE)
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain until {why}")
        time.sleep(0.01)


def clean_env(extra=None):
    """The environment of a chatd started by hand: nothing of ours but what `extra` says (None removes)."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    for name, value in (extra or {}).items():
        env.pop(name, None)
        if value is not None:
            env[name] = str(value)
    return env


def run_chatd(*args, env=None, timeout=None):
    """Runs chatd to its end, for everything that prints and exits. Output as text."""
    return subprocess.run(
        [binary(), *args],
        env=clean_env(env),
        text=True,
        timeout=timeout or DEADLINE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def alive(pid):
    """A zombie counts as dead: in a container nobody may come to collect it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(pid):
    """Living child processes, oldest first."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(stat[1]) == pid and stat[0] not in "ZX":
            found.append((int(stat[19]), int(entry)))
    return [child for _, child in sorted(found)]


class Chatd:
    """One server. `env` overrides TEST_ENV (None removes a name); `conf` is the text of a settings file.

    `allow` lists regular expressions for log lines of level error that the test expects. `data_dir`, when
    given, belongs to the caller and is not removed. `prefix` is a command that runs it somewhere else (a network
    namespace), where the HOST of `env` has to be within reach.
    """

    def __init__(self, workers=2, env=None, data_dir=None, conf=None, allow=(), start=True, prefix=()):
        self.scratch = Path(tempfile.mkdtemp(prefix="chatd-test-"))
        self.data_dir = Path(data_dir) if data_dir else self.scratch / "data"
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_path = self.scratch / "stderr.log"
        self.log_path.touch()
        self.conf_path = None
        if conf is not None:
            self.conf_path = self.scratch / "chat.conf"
            self.conf_path.write_text(conf)
        self.env = dict(
            TEST_ENV, DATA_DIR=str(self.data_dir), **({"MAX_WORKERS": workers} if workers else {})
        )
        self.env.update(env or {})
        self.prefix = list(prefix)
        self.host = self.env["HOST"] if prefix else "127.0.0.1"
        self.allow = list(allow)
        self.n_workers = workers
        self.process = None
        self.port = None
        self.reloaded = False
        self._known = set()  # workers that must not have died by themselves
        self._read_from = 0  # in the log: what this life of the server wrote
        self._checked = 0  # in the log: already judged by check_log()
        self._bus_files = set()
        if start:
            try:
                self.start()
            except BaseException:
                self.close(check=False)
                raise

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, healthy=True):
        """Starts it, again after a stop or kill on the same port and data. Returns when /health says 200.

        `healthy=False` waits for no more than that it listens: for tests that start it with a part of it away."""
        env = dict(self.env)
        if self.port:
            env["PORT"] = self.port
        args = [*self.prefix, binary()] + (["-c", str(self.conf_path)] if self.conf_path else [])
        self._read_from = self.log_path.stat().st_size
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                args, env=clean_env(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.scratch
            )
        until(lambda: self._listening() or self.process.poll() is not None, "chatd listens")
        if self.process.poll() is not None:
            raise AssertionError(
                f"chatd ended with {self.process.returncode} at its start:\n{self.log_text()}"
            )
        if healthy:
            until(self._healthy, "GET /health says 200")
        if self.n_workers:
            until(lambda: len(self.workers()) == self.n_workers, f"{self.n_workers} workers run")
        self.settle()
        return self

    def settle(self):
        """Takes the workers of now as those that have to live on. After a reload or a kill the test meant."""
        self._known = set(self.workers())
        for pid in [self.pid, *self._known]:
            self._bus_files |= mapped_bus_files(pid)
        for event in self.log_events("bus_ready"):
            self._bus_files |= {event["path"]} if "path" in event else set()

    def signal(self, number):
        self.reloaded = self.reloaded or number == signal.SIGHUP
        os.kill(self.pid, number)

    def stop(self):
        """TERM, then waits. Returns the exit code. Clients have to answer meanwhile: call it in a thread."""
        if self.process is None:
            return None
        self._check_workers()
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait_stopped()

    def wait_stopped(self, deadline=20):
        """Until a stop under way is done. Returns the exit code."""
        self._known = set()
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(
                f"chatd did not stop within {deadline} s of TERM:\n{self.log_text()[-4000:]}"
            ) from None
        self.process = None
        return code

    def kill_all(self):
        """SIGKILL for the master, then for every worker: as a power cut would, but /dev/shm stays."""
        pids = [self.process.pid, *children(self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(DEADLINE)
        until(lambda: not any(alive(pid) for pid in pids), "every process of chatd is gone")
        self.process = None
        self._known = set()

    def kill_worker(self, index, number=9):
        """Kills a worker by its place in workers(); returns its process id."""
        return self.kill_pid(self.workers()[index], number)

    def kill_pid(self, pid, number=9):
        """Kills this worker; that it dies is then no failure."""
        self._known.discard(pid)
        os.kill(pid, number)
        return pid

    def wait_respawned(self, gone):
        """Until `gone` is dead and the full number of workers is there."""
        until(lambda: not alive(gone) and len(self.workers()) == self.n_workers, "the worker was replaced")
        self.settle()

    def forget_bus(self):
        """What a reboot does to a stopped chatd: its log in /dev/shm is gone."""
        assert self.process is None
        for path in self._bus_files:
            Path(path).unlink(missing_ok=True)

    def close(self, check=True):
        """Stops what still runs, judges the log, removes every file of the test."""
        try:
            if self.process is not None:
                for pid in children(self.process.pid):
                    # A worker of before a reload may end in this moment.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                if check:
                    self.stop()
                else:
                    self.kill_all()
            if check:
                self.check_log()
        finally:
            for path in self._bus_files:
                Path(path).unlink(missing_ok=True)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind:
            print(f"--- chatd's log ---\n{self.log_text()[-6000:]}")
        self.close(check=kind is None)

    # -- what it says ----------------------------------------------------------------------------------------

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def log_events(self, event=None):
        """The JSON log lines of this life, all or those of one event."""
        with open(self.log_path, "rb") as log:
            log.seek(self._read_from)
            lines = log.read().decode(errors="replace").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in parsed if event is None or line.get("event") == event]

    def wait_log(self, event, **fields):
        """The first line of that event whose members are `fields`."""

        def find():
            return [e for e in self.log_events(event) if all(e.get(k) == v for k, v in fields.items())]

        return until(find, f"the log has {event} {fields}")[0]

    def check_log(self):
        """Fails on sanitizer output, on a worker that died by itself, on error lines nobody expected."""
        with open(self.log_path, "rb") as log:
            log.seek(self._checked)
            text = log.read().decode(errors="replace")
            self._checked = log.tell()
        assert not BROKEN.search(text), f"chatd is broken:\n{text[-8000:]}"
        self._check_workers()
        bad = [
            line
            for line in text.splitlines()
            if line.startswith("{")
            and '"level":"error"' in line.replace('": "', '":"')
            and not any(re.search(pattern, line) for pattern in self.allow)
        ]
        assert not bad, "unexpected errors in chatd's log:\n" + "\n".join(bad)

    def _check_workers(self):
        if self.reloaded or self.process is None or self.process.poll() is not None:
            return
        lost = [pid for pid in self._known if not alive(pid)]
        assert not lost, f"workers {lost} died by themselves:\n{self.log_text()[-8000:]}"

    def _listening(self):
        found = [event["port"] for event in self.log_events("listening") if event.get("port")]
        self.port = int(found[0]) if found else self.port
        return found

    def _healthy(self):
        assert self.process.poll() is None, f"chatd ended with {self.process.returncode}:\n{self.log_text()}"
        try:
            return self.get("/health")[0] == 200
        except OSError:
            return False

    # -- where it is -----------------------------------------------------------------------------------------

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    @property
    def ws_url(self):
        return f"ws://{self.host}:{self.port}/ws"

    @property
    def pid(self):
        return self.process.pid

    @property
    def database(self):
        return self.data_dir / "chat.db"

    def get(self, path, method="GET", headers=None):
        """One HTTP request: (status, headers, body as bytes)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def get_json(self, path, status=200):
        code, _, body = self.get(path)
        assert code == status, f"GET {path}: {code} {body!r}"
        return json.loads(body)

    def metrics(self):
        return self.get_json("/metrics")

    def workers(self):
        """Process ids of the workers, oldest first."""
        return children(self.process.pid)

    def worker_of(self, client_port, client_host="127.0.0.1"):
        """The worker (process id) that holds the connection from that address, None when nobody does."""
        return self.workers_of([(client_host, client_port)])[0]

    def workers_of(self, addresses):
        """The same for many connections at once; two looks at /proc for all of them."""
        inodes = self._socket_inodes()
        owners = {}
        for pid in self.workers():
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(fd)
                except OSError:
                    continue
                if target.startswith("socket:["):
                    owners[target[8:-1]] = pid
        return [owners.get(inodes.get(address)) for address in addresses]

    def _socket_inodes(self):
        """Server-side sockets of established connections: {(client host, client port): inode}."""
        found = {}
        with open(f"/proc/{self.pid}/net/tcp") as table:  # of its namespace
            next(table)
            for line in table:
                fields = line.split()
                if fields[3] == "01" and int(fields[1].split(":")[1], 16) == self.port:
                    host, port = fields[2].split(":")
                    host = socket.inet_ntoa(bytes.fromhex(host)[::-1])
                    found[(host, int(port, 16))] = fields[9]
        return found


def mapped_bus_files(pid):
    """Files of the embedded bus that a process has mapped."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {
        line.split(maxsplit=5)[5]
        for line in maps.splitlines()
        if "/dev/shm/chatd-" in line and not line.endswith("(deleted)")
    }
