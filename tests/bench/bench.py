"""What chatd costs beside the floor server, and whether that is within the bounds that were set.

    make bench                                                   (or: tests/bench/bench.py --rounds 7)

Each round starts every server anew, chatd on an empty data directory, and drives it with loadtest/chatload.
chatd and floor take turns within a round, and who is first changes from round to round, so that whatever else
the machine does meets both. Ratios are made within a round; what is printed is the median of the rounds, with
the smallest and the largest. loadtest/README.md says how each figure is taken. Needs nothing but Python.

Exit code: 0 when every bound holds and every run was clean, else 1.
"""

import argparse
import http.client
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True  # nothing is written into the source tree

from support.chatd import Chatd, until  # noqa: E402

RUN_DEADLINE = 300  # seconds; ends a hang

# Name, chatd's workers, chatload's options. `idle` has rooms of 100, as a large server would.
SCENARIOS = {
    "idle": (2, ["--connections=19000", "--rooms=190", "--idle", "--seconds=3"]),
    "room_20": (1, ["--connections=1000", "--rooms=1", "--publishers=10", "--rate=20", "--seconds=10"]),
    "room_100": (1, ["--connections=1000", "--rooms=1", "--publishers=10", "--rate=100", "--seconds=10"]),
    "rooms": (1, ["--connections=5000", "--rooms=500", "--publishers=500", "--rate=2000", "--seconds=10"]),
}


def memory(run):
    return run["server"]["bytes_per_connection"]


def cpu(run):
    return run["server"]["cpu_us_per_delivery"]


def p99(run):
    return run["latency_us"]["p99"] / 1000


def connects(run):
    return run["connects_per_second"]


# What Prometheus costs: a large host in full traffic, asked as Prometheus asks (keep-alive, compressed), far more often.
SCRAPE = "scrape"
SCRAPE_LOAD = (2, ["--connections=15000", "--rooms=150", "--publishers=150", "--rate=200"])
SCRAPE_WINDOWS = "without with with without without with with without".split()
SCRAPE_WINDOW_S = 4
SCRAPES_PER_SECOND = 100
SCRAPE_INTERVAL_S = 5  # between two questions in earnest
SCRAPE_BOUND = 0.5  # percent of a core
SCRAPE_HEADERS = {
    "Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "5",
}

# Scenario, title, unit, what to read from a run, decimals, bound, whether it is on the ratio to floor.
FIGURES = [
    ("idle", "own memory per idle connection in one room", "bytes", memory, 0, 1000, False),
    ("room_20", "CPU per delivery, one room of 1,000, 20 messages/s", "µs", cpu, 2, 1.3, True),
    ("room_100", "CPU per delivery, one room of 1,000, 100 messages/s", "µs", cpu, 2, 1.3, True),
    ("rooms", "CPU per delivery, 500 rooms of 10, 2,000 messages/s", "µs", cpu, 2, None, False),
    ("rooms", "p99 from due to delivered, 500 rooms of 10, 2,000 messages/s", "ms", p99, 1, None, False),
    ("rooms", "connections per second, handshake to joined", "1/s", connects, 0, None, False),
]


class Floor:
    """A running floor server: what Chatd is for chatd, as far as a benchmark asks."""

    def __init__(self, binary):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([binary, "0"], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        self.pid = self.process.pid
        self.port = until(self._port, "floor listens")

    def _port(self):
        self.log.seek(0)
        found = re.search(r"port=(\d+)\n", self.log.read())
        return int(found[1]) if found else None

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@contextmanager
def running(server, workers, options):
    """Yields a server that is ready; afterwards it is gone, with its data."""
    if server == "floor":
        floor = Floor(options.floor)
        try:
            yield floor
        finally:
            floor.close()
    else:
        with Chatd(workers=workers) as chatd:
            yield chatd


def measure(server, scenario, options):
    """One run of chatload: its report, and in `fault` what was wrong with it."""
    workers, arguments = SCENARIOS[scenario]
    report = {}
    try:
        with running(server, workers, options) as process:
            done = subprocess.run(
                [options.chatload, *arguments, "--text-bytes=128", "--source-addresses=8",
                 f"--server-pid={process.pid}", "127.0.0.1", str(process.port)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=RUN_DEADLINE)
            report = json.loads(done.stdout) if done.stdout else {}
            if done.returncode or report["refused"]:
                report["fault"] = f"chatload ended with {done.returncode}: {done.stderr[-1000:]}"
            elif report["server"]["processes"] != report["server"]["processes_at_start"]:
                report["fault"] = "a process of the server ended during the run"
    except (AssertionError, subprocess.TimeoutExpired) as error:
        report["fault"] = str(error)
    return report


def cpu_of(pids):
    """Seconds of processor time that these processes have had, all threads."""
    return sum(int(path.read_text().split()[0]) for pid in pids
               for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def scrape_for(connection, seconds):
    """Asks at an even rate; returns how often, and the answer's bytes as they came."""
    end, count, length = time.monotonic() + seconds, 0, 0
    due = time.monotonic()
    while due < end:
        time.sleep(max(0, due - time.monotonic()))
        due += 1 / SCRAPES_PER_SECOND
        connection.request("GET", "/metrics", headers=SCRAPE_HEADERS)
        answer = connection.getresponse()
        length = len(answer.read())
        if answer.status != 200 or not answer.headers["Content-Type"].startswith("text/plain"):
            raise AssertionError(f"/metrics: {answer.status}, {answer.headers['Content-Type']}")
        count += 1
    time.sleep(max(0, end - time.monotonic()))
    return count, length


def scrape_windows(chatd, load):
    """CPU of chatd in windows with and without scrapes, taken in turns while the load lasts."""
    pids = [chatd.pid, *chatd.workers()]
    connection = http.client.HTTPConnection("127.0.0.1", chatd.port, timeout=RUN_DEADLINE)
    used, scrapes, length = {"with": 0.0, "without": 0.0}, 0, 0
    for window in SCRAPE_WINDOWS:
        before, started = cpu_of(pids), time.monotonic()
        if window == "with":
            count, length = scrape_for(connection, SCRAPE_WINDOW_S)
            scrapes += count
        else:
            time.sleep(SCRAPE_WINDOW_S)
        # What took longer than it should has cost more for that.
        used[window] += (cpu_of(pids) - before) * SCRAPE_WINDOW_S / (time.monotonic() - started)
    if load.poll() is not None:
        raise AssertionError("the load ended before the last window")
    connection.close()
    cost = (used["with"] - used["without"]) / scrapes
    busy = used["without"] / SCRAPE_WINDOWS.count("without") / SCRAPE_WINDOW_S
    return {"seconds": cost, "scrapes": scrapes, "bytes": length, "busy_cores": busy,
            "percent": cost / SCRAPE_INTERVAL_S * 100}


def measure_scrapes(options):
    workers, arguments = SCRAPE_LOAD
    seconds = len(SCRAPE_WINDOWS) * SCRAPE_WINDOW_S + 10
    with Chatd(workers=workers) as chatd:
        load = subprocess.Popen(
            [options.chatload, *arguments, f"--seconds={seconds}", "--text-bytes=128", "--source-addresses=8",
             f"--server-pid={chatd.pid}", "127.0.0.1", str(chatd.port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: chatd.metrics()["memberships"] == 15000 and chatd.metrics()["deliveries_total"] > 10000,
                  "all are there and messages flow", RUN_DEADLINE)
            return scrape_windows(chatd, load)
        finally:
            load.kill()
            load.communicate()


def run_scrapes(options):
    """The rounds' figures; what was wrong is in `fault`."""
    runs = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}: {SCRAPE}")
        try:
            runs.append(measure_scrapes(options))
        except (AssertionError, OSError) as error:
            runs.append({"fault": str(error)})
            say(f"  not clean: {error}")
    return runs


def judge_scrapes(runs):
    clean = [run for run in runs if "fault" not in run]
    if not clean:
        return None
    share = spread([run["percent"] for run in clean])
    return {"percent": share, "milliseconds": spread([run["seconds"] * 1000 for run in clean]),
            "bytes": clean[-1]["bytes"], "busy_cores": clean[-1]["busy_cores"],
            "holds": share["median"] < SCRAPE_BOUND}


def print_scrapes(figure):
    print(f"\nA scrape of /metrics costs {figure['milliseconds']['median']:.2f} ms of CPU ({figure['bytes']:,} bytes, "
          f"{figure['busy_cores']:.2f} cores busy with 15,000 connections): one per {SCRAPE_INTERVAL_S} s is "
          f"{figure['percent']['median']:.3f} % of a core ({figure['percent']['min']:.3f}–"
          f"{figure['percent']['max']:.3f}), bound {SCRAPE_BOUND} %: {'pass' if figure['holds'] else 'FAIL'}")


def run_rounds(options):
    """All runs, in the order they were made."""
    runs = []
    for number in range(options.rounds):
        for scenario in chosen(options):
            servers = ["chatd", "floor"] if number % 2 == 0 else ["floor", "chatd"]
            for server in servers:
                say(f"round {number + 1} of {options.rounds}: {scenario}, {server}")
                started = time.time()
                report = measure(server, scenario, options)
                if "fault" in report:
                    say(f"  not clean: {report['fault']}")
                runs.append({"round": number, "scenario": scenario, "server": server, "started": started,
                             "report": report})
    return runs


def chosen(options):
    return [scenario for scenario in options.only or SCENARIOS if scenario != SCRAPE]


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def judge(runs):
    """The figures: chatd's, floor's and the ratio, with spread. Runs that were not clean don't count."""
    figures = []
    for scenario, title, unit, read, decimals, bound, on_ratio in FIGURES:
        rounds = {}
        for run in runs:
            if run["scenario"] == scenario and "fault" not in run["report"]:
                rounds.setdefault(run["round"], {})[run["server"]] = read(run["report"])
        both = [pair for pair in rounds.values() if len(pair) == 2 and pair["floor"] > 0]
        if not both:
            continue
        figure = {"scenario": scenario, "title": title, "unit": unit, "decimals": decimals, "bound": bound,
                  "bound_is_on": "ratio" if on_ratio else "chatd",
                  "chatd": spread([pair["chatd"] for pair in both]),
                  "floor": spread([pair["floor"] for pair in both]),
                  "ratio": spread([pair["chatd"] / pair["floor"] for pair in both])}
        if bound is not None:
            figure["holds"] = figure[figure["bound_is_on"]]["median"] <= bound
        figures.append(figure)
    return figures


def print_table(figures):
    """In Markdown, ready for loadtest/README.md."""
    def cell(values, decimals):
        low, middle, high = (f"{values[name]:,.{decimals}f}" for name in ("min", "median", "max"))
        return f"{middle} ({low}–{high})"

    print("| median (smallest–largest) | unit | chatd | floor | ratio | bound | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for figure in figures:
        bound, verdict = "", ""
        if figure["bound"] is not None:
            bound = f"{figure['bound_is_on']} ≤ {figure['bound']:,}"
            verdict = "pass" if figure["holds"] else "FAIL"
        chatd, floor = (cell(figure[server], figure["decimals"]) for server in ("chatd", "floor"))
        print(f"| {figure['title']} | {figure['unit']} | {chatd} | {floor} | {cell(figure['ratio'], 2)} "
              f"| {bound} | {verdict} |")


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count(),
            "kernel": platform.release()}


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, SCRAPE], help="these scenarios; may be repeated")
    parser.add_argument("--chatd", default=os.environ.get("CHATD", str(ROOT / "build/chatd")))
    parser.add_argument("--floor", default=str(ROOT / "build/floor"))
    parser.add_argument("--chatload", default=str(ROOT / "build/chatload"))
    parser.add_argument("--out", default=str(ROOT / "build/bench.json"), help="all reports, and the figures")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    for program in (options.chatd, options.floor, options.chatload):
        if not os.access(program, os.X_OK):
            parser.error(f"{program} is missing: run `make bench`")
    os.environ["CHATD"] = str(Path(options.chatd).resolve())  # where Chatd looks for it
    return options


def main():
    options = parse_options()
    runs = run_rounds(options)
    figures = judge(runs)
    scrapes = run_scrapes(options) if SCRAPE in (options.only or [SCRAPE]) else []
    scrape_figure = judge_scrapes(scrapes)
    faults = [run for run in runs if "fault" in run["report"]]
    Path(options.out).write_text(json.dumps(
        {"machine": machine(), "rounds": options.rounds, "figures": figures, "runs": runs,
         "scrape": scrape_figure, "scrapes": scrapes}, indent=1) + "\n")

    if figures:
        print_table(figures)
    if scrape_figure:
        print_scrapes(scrape_figure)
    for run in scrapes:
        if "fault" in run:
            print(f"\nnot clean: {SCRAPE}: {run['fault']}")
    for run in faults:
        where = f"round {run['round'] + 1}, {run['scenario']}, {run['server']}"
        print(f"\nnot clean: {where}: {run['report']['fault']}")
    expected = [figure for figure in FIGURES if figure[0] in chosen(options)]
    missing = len(expected) - len(figures)
    if missing:
        print(f"\n{missing} figures have no round in which both servers ran cleanly")
    clean = not faults and not missing and not any("fault" in run for run in scrapes)
    holds = all(figure.get("holds", True) for figure in [*figures, *([scrape_figure] if scrape_figure else [])])
    return 0 if clean and holds else 1


if __name__ == "__main__":
    sys.exit(main())
