"""make loadtest: runs artillery's scenarios against a chatd, watches /metrics meanwhile, writes a report with plots.

    make loadtest                                  starts a chatd of its own, runs every scenario
    make loadtest CHATD_URL=http://chat.example    aims at this one, whose limits have to be lifted
    make loadtest SCENARIO="rooms mixed" DURATION=60 RATE=20 USERS=300

DURATION is how many seconds users arrive in each scenario, RATE how many of them a second, USERS how many there may
be at a time. What is not given stands in SCENARIOS below. Everything lands in build/loadtest/report/.

Exit code: 0 when every check of every scenario holds; 1 when one does not; 2 when there was no run.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True  # nothing is written into the source tree

import report  # noqa: E402
from support.chatd import Chatd  # noqa: E402

SCRIPT = ROOT / "loadtest/artillery/load-test.yml"
ARTILLERY = ROOT / "build/loadtest/node_modules/artillery/bin/run"
OUT = ROOT / "build/loadtest/report"
# What each is run with: one of artillery's phases, and how many rooms the users are dealt out to.
SCENARIOS = {
    "storm": ({"duration": 10, "arrivalRate": 100}, 50),
    "rooms": ({"duration": 20, "arrivalRate": 10}, 10),
    "typing": ({"duration": 15, "arrivalRate": 10}, 10),
    "reconnects": ({"duration": 15, "arrivalRate": 10}, 10),
    "mixed": ({"duration": 20, "arrivalRate": 10}, 10),
}
SAMPLE_SECONDS = 1
REQUEST_SECONDS = 5
PAUSE_SECONDS = 3  # between scenarios, so that the plots tell them apart
OLDEST_NODE = 18
TICKS = os.sysconf("SC_CLK_TCK")
BUCKET = re.compile(r'^chatd_delivery_latency_seconds_bucket\{le="([^"]+)"\} (\S+)', re.M)


class Fault(Exception):
    """Why there is no run, in words for who typed `make loadtest`."""


def say(text):
    print(text, flush=True)


# -- options -----------------------------------------------------------------------------------------------------


def number_option(name):
    text = os.environ.get(name, "")
    if text and not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise Fault(f"{name}={text}: a whole number above 0 is wanted")
    return int(text) if text else None


def read_options():
    scenarios = os.environ.get("SCENARIO", "").split() or list(SCENARIOS)
    unknown = [name for name in scenarios if name not in SCENARIOS]
    if unknown:
        raise Fault(f"SCENARIO={' '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    url = os.environ.get("CHATD_URL", "").rstrip("/")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise Fault(f"CHATD_URL={url}: something like http://127.0.0.1:5000 is wanted")
    phase = {"duration": number_option("DURATION"), "arrivalRate": number_option("RATE"),
             "maxVusers": number_option("USERS")}
    return scenarios, url, {name: value for name, value in phase.items() if value}


def check_tools():
    node = shutil.which("node")
    if not node:
        raise Fault("node is missing: `apt-get install nodejs npm`, or any Node from 18 on")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if not version.startswith("v") or int(version[1:].split(".")[0]) < OLDEST_NODE:
        raise Fault(f"{node} is {version}: artillery wants {OLDEST_NODE} or newer")
    if not ARTILLERY.exists():
        raise Fault(f"{ARTILLERY} is missing: `make loadtest` installs it, and needs the npm registry once")
    return node


# -- watching ----------------------------------------------------------------------------------------------------


def get(url, path, accept):
    parts = urlsplit(url)
    maker = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = maker(parts.hostname, parts.port, timeout=REQUEST_SECONDS)
    try:
        connection.request("GET", parts.path + path, headers={"Accept": accept})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"GET {path}: {answer.status}")
        return body.decode()
    except http.client.HTTPException as error:
        raise OSError(f"GET {path}: {error!r}") from error
    finally:
        connection.close()


def threads_cpu(pid):
    """Processor seconds of each thread of a process, {} once it is gone."""
    seconds = {}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            seconds[task.name] = (int(fields[11]) + int(fields[12])) / TICKS
    except OSError:
        pass
    return seconds


class Sampler:
    """Reads /metrics, in both forms, and artillery's processor time once a second until it is stopped."""

    def __init__(self, url):
        self.url = url
        self.scenario = None
        self.artillery = None  # its process id
        self.samples = []
        self.failures = 0
        self.file = open(OUT / "samples.jsonl", "w")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _loop(self):
        due = time.monotonic()
        while not self.ended.is_set():
            try:
                self.samples.append(self.read())
                self.file.write(json.dumps(self.samples[-1]) + "\n")
            except (OSError, ValueError) as error:
                self.failures += 1
                say(f"  no sample: {error}")
            due = max(due + SAMPLE_SECONDS, time.monotonic())
            self.ended.wait(due - time.monotonic())

    def read(self):
        metrics = json.loads(get(self.url, "/metrics", "application/json"))
        text = get(self.url, "/metrics", "text/plain")
        return {"time": time.time(), "scenario": self.scenario, "metrics": metrics,
                "delivery_buckets": [[bound, float(count)] for bound, count in BUCKET.findall(text)],
                "artillery_threads": threads_cpu(self.artillery) if self.artillery else {}}

    def stop(self):
        self.ended.set()
        self.thread.join()
        self.file.close()


def own_chatd(data):
    """One that can't be found, run or got to listen is why there is no run."""
    try:
        return Chatd(workers=None, data_dir=data)
    except (OSError, AssertionError) as error:
        raise Fault(f"chatd can't be started: {error}") from error


@contextmanager
def target(url):
    """Yields the address of a chatd: the one named, or one of our own with an empty store."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="chatd-loadtest-") as data:
        with own_chatd(data) as chatd:
            yield chatd.url


# -- scenarios ---------------------------------------------------------------------------------------------------


def run_scenario(node, name, url, phase, sampler):
    """One scenario, `mixed` all of them side by side: artillery's report and what chatd had counted before and after."""
    result_path, log_path = OUT / f"artillery-{name}.json", OUT / f"artillery-{name}.log"
    usual, rooms = SCENARIOS[name]
    config = {"phases": [{**usual, **phase}], "variables": {"rooms": rooms}}
    arguments = [node, str(ARTILLERY), "run", "--target", url, "--output", str(result_path),
                 "--overrides", json.dumps({"config": config})]
    if name != "mixed":
        arguments += ["--scenario-name", name]
    before = sampler.read()
    with open(log_path, "w") as log:
        process = subprocess.Popen([*arguments, SCRIPT.name], cwd=SCRIPT.parent, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT,
                                   env={**os.environ, "ARTILLERY_DISABLE_TELEMETRY": "true", "NO_COLOR": "1"})
        try:
            sampler.scenario, sampler.artillery = name, process.pid
            code = process.wait()
        finally:
            sampler.scenario = sampler.artillery = None
            if process.poll() is None:
                process.kill()
                process.wait()
    log_text = log_path.read_text()
    if not result_path.exists():
        raise Fault(f"artillery ended with {code} before it had a result:\n{log_text[-2000:]}")
    return {"name": name, "code": code, "log": log_text, "result": json.loads(result_path.read_text()),
            "before": before, "after": sampler.read()}


def judge(run, own):
    """What is wrong with a run, as sentences. A server of our own counted nobody but artillery's users."""
    counters = run["result"]["aggregate"]["counters"]
    summaries = run["result"]["aggregate"]["summaries"]
    faults = [line[6:] + " does not hold" for line in run["log"].splitlines() if line.startswith("fail: ")]
    faults += [f"{name[7:]} ({count} times)" for name, count in counters.items() if name.startswith("errors.")]
    if run["code"] and not faults:
        faults.append(f"artillery ended with {run['code']}")
    if not counters.get("chatd.checked"):
        faults.append("no user came to the end of the scenario")
    if own:
        acknowledged = sum(summaries.get(f"chatd.{name}", {}).get("count", 0) for name in ("ack_ms", "retry_ack_ms"))
        accepted = run["after"]["metrics"]["messages_total"] - run["before"]["metrics"]["messages_total"]
        if accepted != acknowledged:
            faults.append(f"chatd counted {accepted} messages, {acknowledged} were acknowledged")
    return faults


def main():
    scenarios, url, phase = read_options()
    node = check_tools()
    runs = []
    with target(url) as address:
        try:
            get(address, "/health", "application/json")
        except OSError as error:
            raise Fault(f"no chatd answers at {address}: {error}") from error
        # The last report stays until there is a run that makes another.
        shutil.rmtree(OUT, ignore_errors=True)
        OUT.mkdir(parents=True)
        sampler = Sampler(address)
        try:
            for name in scenarios:
                say(f"{name} …")
                run = run_scenario(node, name, address, phase, sampler)
                run["faults"] = judge(run, own=not url)
                runs.append(run)
                say("\n".join(f"  {fault}" for fault in run["faults"]) or "  every check holds")
                time.sleep(PAUSE_SECONDS)
        finally:
            sampler.stop()
    report.write(OUT, runs, sampler.samples, "a chatd started for this run" if not url else url, phase)
    say(f"report: {(OUT / 'report.md').relative_to(ROOT)}")
    return 1 if any(run["faults"] for run in runs) or sampler.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        print(f"loadtest: {fault}", file=sys.stderr)
        sys.exit(2)
