"""Each alert fires once and clears once, from what really causes it, and the webhook's receiver hears of both."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import promql_parser
import pytest
import yaml

from support.chatd import ROOT, run_chatd, until
from support.servers import Port

OFF = {f"ALERT_{name}": "off" for name in ("MEMORY", "CONNECTIONS", "QUEUE", "STORE", "ERRORS", "RESPAWNS")}


class Receiver:
    """Takes what Alertmanager's webhook receivers take. `answer` is the status it gives; refused calls are counted.

    While `hangs` it answers nothing, and gives up those calls at the end of it."""

    def __init__(self):
        self.port = Port()
        self.answer = 200
        self.taken = []  # bodies of calls that were answered 200
        self.refused = 0
        self.hanging = 0
        self.hangs = False
        self.goes_on = threading.Event()
        self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port.number}/hook?token=secret"

    def start(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = receiver.answer
                if receiver.hangs:
                    receiver.hanging += 1
                    receiver.goes_on.wait()
                    self.close_connection = True
                    return
                if status == 200:
                    receiver.taken.append(body)
                else:
                    receiver.refused += 1
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port.number), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def hang(self, hangs):
        self.hangs = hangs
        if not hangs:
            self.goes_on.set()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
        self.server = None

    def close(self):
        self.hang(False)
        self.stop()
        self.port.close()

    def told(self, title=None):
        """(alert, status) in the order they were taken."""
        heard = [(a["labels"]["alertname"], a["status"]) for body in self.taken for a in body["alerts"]]
        return [pair for pair in heard if title in (None, pair[0])]


@pytest.fixture
def receiver():
    one = Receiver().start()
    yield one
    one.close()


@pytest.fixture
def watched(chatd, receiver):
    """A chatd with all alerts off but those of `env`, and the receiver for its webhook."""

    def make(env, **options):
        return chatd(env={**OFF, "ALERT_WEBHOOK": receiver.url, **env}, **options)

    return make


def rule(server, name):
    return next(r for r in server.get_json("/alerts")["rules"] if r["name"] == name)


def is_(state, server, *names):
    return lambda: all(rule(server, name)["state"] == state for name in names)


def threads_of(pid):
    """Names of a process's threads, none once it is gone."""
    names = []
    for path in Path("/proc").glob(f"{pid}/task/*/comm"):
        try:
            names.append(path.read_text().strip())
        except OSError:  # it ended meanwhile
            continue
    return names


def judges(server):
    """Process ids of the workers that judge: one, but for moments in which it is none."""
    return [pid for pid in server.workers() if "alerts-judge" in threads_of(pid)]


def judge_of(server):
    return until(lambda: judges(server), "a worker judges")[0]


def next_judge(server, end):
    """Who judges once `end` has ended the one that does. Meanwhile /metrics goes on telling what was judged."""
    until(lambda: all(w["memory_limit_bytes"] > 0 for w in server.metrics()["workers"]), "all workers tell")
    before = judge_of(server)
    looks = 0
    end(before)

    def find():
        nonlocal looks
        found = [pid for pid in judges(server) if pid != before]
        try:
            told = server.metrics()
        except OSError:  # the kernel gave this one to a worker that was killed
            return None
        looks += 1
        assert told["memory_used_bytes"] > 0 and told["memory_limit_bytes"] > 0, f"look {looks}"
        return found

    return until(find, "another worker judges")[0]


def expect_once(server, receiver, *names):
    """Fired once, cleared once, by the log and by the receiver, who knows that the two belong together."""
    assert Counter(e["alert"] for e in server.log_events("alert_firing")) == Counter(names)
    assert Counter(e["alert"] for e in server.log_events("alert_resolved")) == Counter(names)
    until(lambda: len(receiver.taken) >= 2 * len(names), "the receiver has heard of all")
    for name in names:
        title = f"Chatd{name.capitalize()}"
        assert receiver.told(title) == [(title, "firing"), (title, "resolved")]
        first, last = [a for body in receiver.taken for a in body["alerts"] if a["labels"]["alertname"] == title]
        assert first["fingerprint"] == last["fingerprint"] and first["startsAt"] == last["startsAt"]
        assert first["startsAt"] < last["endsAt"]
    until(lambda: server.metrics()["alert_webhook_total"] >= 2 * len(names), "their answers are noted")
    state = server.get_json("/alerts")
    assert state["alerts"] == [] and state["webhook"] == {"waiting": 0, "dropped": 0}
    assert len(receiver.taken) == server.metrics()["alert_webhook_total"] == 2 * len(names)


# -- from the real cause -------------------------------------------------------------------------------------


async def test_a_locked_store_fires_store_and_queue(watched, receiver, people, room):
    server = watched(
        {"ALERT_STORE": "300ms for 1s clear 200ms", "ALERT_QUEUE": "9 for 1s clear 3"}, allow=("store_failed",)
    )
    ana = await people.member("ana", room)
    holder = sqlite3.connect(server.database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        waiting = [await ana.start("message", room=room, text=f"text {i}") for i in range(20)]
        await asyncio.to_thread(until, is_("firing", server, "store", "queue"), "both fire")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    await asyncio.gather(*waiting)
    await ana.say(room, "a commit as quick as they are")
    active = rule(server, "queue")
    assert active["threshold"] == 9 and active["clear"] == 3
    await asyncio.to_thread(until, is_("ok", server, "store", "queue"), "both are over")
    expect_once(server, receiver, "store", "queue")
    fired = receiver.taken[0]
    assert fired["version"] == "4" and fired["receiver"] == "chatd" and fired["status"] == "firing"


async def test_refused_commands_fire_errors_also_while_the_receiver_hangs(watched, receiver, people, room):
    server = watched({"ALERT_ERRORS": "5/2s clear 0/2s", "MAX_PENDING_PER_CONNECTION": "1"})
    ana = await people.member("ana", room)
    before = server.metrics()["errors_by_code"].get("overloaded", 0)
    receiver.hang(True)
    await asyncio.gather(*[await ana.start("message", room=room, text="x") for _ in range(100)])
    assert server.metrics()["errors_by_code"]["overloaded"] - before > 5
    await asyncio.to_thread(until, is_("firing", server, "errors"), "it fires")
    await asyncio.to_thread(until, lambda: receiver.hanging, "the receiver hangs")
    await asyncio.to_thread(until, is_("ok", server, "errors"), "it is over")
    assert receiver.taken == []
    receiver.hang(False)
    expect_once(server, receiver, "errors")


def test_killed_workers_fire_respawns_and_whoever_judges_next_goes_on(watched, receiver):
    server = watched({"ALERT_RESPAWNS": "1/3s clear 0/3s"})
    killed = [server.kill_pid(pid) for pid in server.workers()]  # at once: the window is no race
    for pid in killed:
        server.wait_respawned(pid)
    until(is_("firing", server, "respawns"), "it fires")
    # A notice whose answer is not noted yet when its worker is killed comes twice, as it may.
    until(lambda: server.get_json("/alerts")["webhook"]["waiting"] == 0, "the receiver took it")
    gone = judge_of(server)
    next_judge(server, server.kill_pid)
    server.wait_respawned(gone)
    until(is_("ok", server, "respawns"), "it is over")
    expect_once(server, receiver, "respawns")


async def test_connections_with_a_receiver_that_is_away_and_a_judge_that_dies(watched, receiver, people):
    server = watched({"ALERT_CONNECTIONS": "3 clear 2"})
    judge = await asyncio.to_thread(judge_of, server)
    other = next(pid for pid in server.workers() if pid != judge)
    receiver.stop()
    clients = [await people.connect_on(other, f"u{i}") for i in range(4)]
    await asyncio.to_thread(until, is_("firing", server, "connections"), "it fires")
    await asyncio.to_thread(until, lambda: rule(server, "connections")["value"] == 4, "all are counted")
    [alert] = server.get_json("/alerts")["alerts"]
    assert (alert["name"], alert["threshold"], alert["unit"]) == ("connections", 3, "connections")
    assert alert["advice"] and alert["since"].endswith("Z") and alert["severity"] == "warning"
    server.wait_log("alert_webhook_failed")
    receiver.answer = 500
    receiver.start()
    await asyncio.to_thread(until, lambda: receiver.refused, "the receiver was tried again")
    server.kill_pid(judge)
    await asyncio.to_thread(server.wait_respawned, judge)
    for client in clients[:2]:
        await client.close()
    await asyncio.to_thread(until, is_("ok", server, "connections"), "it is over")
    assert server.get_json("/alerts")["webhook"]["waiting"] == 2
    receiver.answer = 200
    await asyncio.to_thread(until, lambda: len(receiver.taken) == 2, "the receiver took both")
    expect_once(server, receiver, "connections")
    assert server.metrics()["alert_webhook_failures_total"] >= 2
    assert "secret" not in server.log_text()


async def test_a_frozen_mongodb_and_the_connections_of_all_servers(fleet, redis, mongo, receiver, people, room):
    env = {
        **OFF, "ALERT_WEBHOOK": receiver.url, "ALERT_CONNECTIONS": "3 clear 2",
        "ALERT_STORE": "500ms for 1s clear 400ms",
    }
    here, there = servers = fleet(servers=2, workers=1, redis=redis, mongo=mongo, env=env)
    for server in servers:
        server.allow.append("store")
    clients = [await people.member(f"u{i}", room, server=servers[i % 2]) for i in range(4)]
    for server in servers:
        await asyncio.to_thread(until, is_("firing", server, "connections"), "both hosts see four")
        assert server.metrics()["connections"] == 2
    mongo.freeze()
    try:
        sent = await clients[0].start("message", room=room, text="acknowledged later")
        await asyncio.to_thread(until, is_("firing", here, "store"), "it fires where the commit hangs")
        assert is_("ok", there, "store")()
    finally:
        mongo.thaw()
    assert (await sent)["type"] == "ack"
    await clients[0].say(room, "a commit as quick as they are")
    for client in clients[:2]:
        await client.close()
    for server in servers:
        await asyncio.to_thread(until, is_("ok", server, "connections", "store"), "all is over")
    await asyncio.to_thread(until, lambda: len(receiver.taken) == 6, "the receiver took all")
    heard = {}
    for body in receiver.taken:
        [alert] = body["alerts"]
        heard.setdefault((alert["labels"]["alertname"], alert["labels"]["instance"]), []).append(alert["status"])
    assert sorted(title for title, _ in heard) == ["ChatdConnections", "ChatdConnections", "ChatdStore"]
    assert set(map(tuple, heard.values())) == {("firing", "resolved")}


async def test_memory_of_a_control_group(memory_group, watched, receiver, people, room):
    """Readers that don't read make it grow; more memory ends it."""
    env = {"ALERT_MEMORY": "60% for 1s clear 50%", "SEND_QUEUE_BYTES": "64M", "MAX_TEXT_BYTES": "32K"}
    server = watched(env, workers=1, prefix=memory_group.prefix)
    until(lambda: server.metrics()["memory_limit_bytes"] == memory_group.limit, "the group's limit is seen")
    assert is_("ok", server, "memory")()
    slow = await people.member("slow", room)
    slow.ws.transport.pause_reading()
    ana = await people.connect("ana")
    await ana.join(room)
    text = "x" * 30000
    while rule(server, "memory")["state"] != "firing":
        if memory_group.in_use() < 0.75 * memory_group.limit:
            await ana.say_many(room, [text] * 20)
        else:
            await asyncio.sleep(0.05)  # the next look at it finds it
    memory_group.set_limit(4 * memory_group.limit)
    await asyncio.to_thread(until, is_("ok", server, "memory"), "it is over")
    expect_once(server, receiver, "memory")


def test_a_reload_keeps_what_fires_and_judges_by_the_new_settings(watched, receiver):
    def conf(setting):
        return f"alert_respawns = {setting}\ndrain_timeout = 0\n"

    server = watched({"ALERT_RESPAWNS": None}, conf=conf("1/5m clear 0/5m"))

    def reload():
        before = set(server.workers())
        judge = next_judge(server, lambda _: server.signal(signal.SIGHUP))
        until(lambda: len(server.workers()) == 2 and not before & set(server.workers()), "the workers are new")
        server.settle()
        return judge

    for _ in range(2):
        server.wait_respawned(server.kill_worker(0))
    until(is_("firing", server, "respawns"), "it fires")
    judged = reload() and server.get_json("/alerts")["judged"]
    until(lambda: server.get_json("/alerts")["judged"] > judged, "the new ones judge")
    assert is_("firing", server, "respawns")()
    server.conf_path.write_text(conf("off"))
    reload()
    until(is_("off", server, "respawns"), "it is off")
    expect_once(server, receiver, "respawns")


# -- the rules for Prometheus --------------------------------------------------------------------------------


RULES_ENV = {"ALERT_STORE": "300ms for 10s clear 200ms", "ALERT_QUEUE": "9", "ALERT_ERRORS": "5/10s clear 1/10s"}


@pytest.fixture(scope="module")
def rules():
    """What `chatd rules` prints, with the built-in defaults and with other levels: {alert: rule} of each."""
    found = []
    for env in ({}, RULES_ENV):
        printed = run_chatd("rules", env=env)
        assert printed.returncode == 0, printed.stderr
        [group] = yaml.safe_load(printed.stdout)["groups"]
        found.append({one["alert"]: one for one in group["rules"]})
    return found


def series_of(expr):
    """(name or pattern, matchers of labels) of each series that an expression reads."""
    promql_parser.parse(expr)
    found = re.findall(r'(chatd_\w+|ALERTS|)\{([^}]*)\}|(chatd_\w+)', expr)
    for name, matchers, alone in found:
        pattern = re.search(r'__name__=~"([^"]+)"', matchers)
        for one in pattern.group(1).split("|") if pattern else [name or alone]:
            yield one, [m for m in re.findall(r'(\w+)=~?"([^"]+)"', matchers) if m[0] != "__name__"]


def test_each_rule_reads_series_that_metrics_has(rules, server2):
    text = server2.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})[2].decode()
    for expr in [one["expr"] for some in rules for one in some.values()]:
        for name, labels in series_of(expr):
            if name == "ALERTS":
                continue
            assert re.search(rf"^{name}[ {{]", text, re.M), f"{name} of {expr}"
            for label, values in labels:
                for value in values.split("|"):
                    assert re.search(rf'^{name}{{[^}}]*{label}="{value}"', text, re.M), f"{name} {label}={value}"


def test_the_rules_are_the_alerts(rules, server2):
    names = {one["name"] for one in server2.get_json("/alerts")["rules"]}
    default, other = rules
    assert {title.removeprefix("Chatd").lower() for title in default} == names
    assert other["ChatdStore"]["expr"].startswith("1000 * chatd_store_latency_seconds > 300")
    assert other["ChatdStore"]["for"] == other["ChatdStore"]["keep_firing_for"] == "10s"
    assert other["ChatdQueue"]["expr"].endswith("> 9") and "for" not in other["ChatdQueue"]
    for one in default.values():
        assert one["labels"]["severity"] in ("warning", "critical")
        assert one["annotations"]["summary"] and one["annotations"]["description"]


@pytest.fixture(scope="session")
def promtool():
    """Prometheus' own judge of rules: from the PATH, else from Debian's package, which is not installed for it."""
    if not shutil.which("promtool"):
        made = subprocess.run(["make", "-s", "build/promtool"], cwd=ROOT, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"no promtool here, and Debian's can't be had: {made.stderr[-300:]}")
    return shutil.which("promtool") or str(ROOT / "build" / "promtool")


SECOND_BY_SECOND = {
    "rule_files": ["rules.yml"],
    "evaluation_interval": "1s",
    "tests": [
        {
            "interval": "1s",
            "input_series": [
                # 0 until 4 s, slow until 24 s, between the levels until 44 s, quick from 45 s on
                {"series": 'chatd_store_latency_seconds{instance="a"}', "values": "0x4 0.4x19 0.25x19 0.1x40"},
                {"series": 'chatd_respawns_total{instance="a"}', "values": "0x9 1x9 2x400"},
            ],
            "promql_expr_test": [
                {"expr": f'count(ALERTS{{alertname="{title}", alertstate="firing"}}) or vector(0)',
                 "eval_time": f"{second}s",
                 "exp_samples": [{"labels": "{}", "value": firing}]}
                for title, second, firing in [
                    ("ChatdStore", 14, 0), ("ChatdStore", 15, 1), ("ChatdStore", 40, 1), ("ChatdStore", 54, 1),
                    ("ChatdStore", 55, 0), ("ChatdRespawns", 19, 0), ("ChatdRespawns", 20, 1),
                    ("ChatdRespawns", 300, 1), ("ChatdRespawns", 325, 0),
                ]
            ],
        }
    ],
}


def test_prometheus_fires_and_clears_as_chatd_does(promtool, tmp_path):
    (tmp_path / "rules.yml").write_text(run_chatd("rules", env=RULES_ENV).stdout)
    (tmp_path / "test.yml").write_text(json.dumps(SECOND_BY_SECOND))
    for path in (tmp_path / "rules.yml", ROOT / "deploy" / "prometheus" / "chatd.rules.yml"):
        checked = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = subprocess.run([promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


# -- helpers of the above ------------------------------------------------------------------------------------


class MemoryGroup:
    """A control group with a limit, version 1 or 2, made by root where the kernel's tree may be written to."""

    def __init__(self, limit):
        one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        self.version = 1 if one.is_dir() else 2
        self.path = (one if one.is_dir() else two) / f"chatd-test-{os.getpid()}"
        self.path.mkdir()
        self.set_limit(limit)
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        self.limit = int((self.path / name).read_text())

    def in_use(self):
        usage, cache = [("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")][
            self.version == 1
        ]
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return int((self.path / usage).read_text()) - int(stat[cache])

    def set_limit(self, limit):
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        (self.path / name).write_text(str(limit))

    @property
    def prefix(self):
        """A command that enters the group and becomes what follows."""
        return ["sh", "-c", f'echo $$ >{self.path}/cgroup.procs && exec "$@"', "sh"]

    def close(self):
        until(lambda: not (self.path / "cgroup.procs").read_text().strip(), "nobody is left in the group")
        self.path.rmdir()


@pytest.fixture
def memory_group():
    try:
        group = MemoryGroup(96 << 20)
    except OSError as error:
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    yield group
    group.close()
