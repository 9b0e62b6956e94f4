"""The process as an operator meets it: signals, settings, files, workers that die."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from support.chatd import DEADLINE, ROOT, alive, binary, clean_env, run_chatd, until
from support.client import eventually
from wire import Wire

# -- workers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 4])
async def test_killed_worker_is_replaced_and_the_others_notice_nothing(chatd, people, workers):
    server = chatd(workers=workers)
    clients = await people.spread([f"user{i}" for i in range(workers)])
    for client in clients:
        await client.join("r")
    victim, rest = clients[0], clients[1:]
    victims_worker = victim.worker
    before = set(server.workers())
    killed = time.monotonic()
    gone = server.kill_pid(victims_worker)
    until(lambda: len(set(server.workers()) - {gone}) == workers, "a new worker runs", 5)
    assert time.monotonic() - killed < 1, "requirement R1: back in less than a second"
    server.settle()
    assert await victim.wait_ended() == 1006
    assert set(server.workers()) - before and before - {gone} <= set(server.workers())
    for client in rest:
        await client.command("ping")
        assert not client.ended.is_set()
    ack = await rest[0].say("r", "still here")
    for client in rest:
        await client.expect("message", seq=ack["seq"])
    new = (set(server.workers()) - before).pop()
    back = await people.connect_on(new, "back")  # the new worker serves
    await back.join("r", since=0)
    ack = await back.say("r", "from the new one")
    await rest[0].expect("message", seq=ack["seq"])
    assert server.metrics()["respawns_total"] == 1


async def test_connections_waiting_to_be_accepted_survive_their_worker(chatd, people):
    """The master keeps the listeners: what is in a backlog goes to the next worker."""
    server = chatd(workers=1)
    pid = server.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(people.connect(f"user{i}")) for i in range(20)]
    await eventually(lambda: len(server._socket_inodes()) >= 20, "the kernel has taken the connections")
    gone = server.kill_pid(pid)
    await asyncio.gather(*waiting)
    server.wait_respawned(gone)


def test_worker_that_hangs_is_replaced(chatd, tmp_path):
    """By the master, not by who starts chatd: the watchdog is fed meanwhile. Where master and workers stood still
    together, as on a host that was suspended, nobody hangs."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.setblocking(False)
        fed = []
        server = chatd(workers=2, env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "4000000"})
        suspended = chatd(workers=2)
        workers = suspended.workers()
        for pid in [suspended.pid, *workers]:
            os.kill(pid, signal.SIGSTOP)
        gone = server.kill_pid(server.workers()[0], signal.SIGSTOP)
        stopped = time.monotonic()

        def replaced():
            try:
                while b"WATCHDOG=1" in notify.recv(4096):
                    fed.append(time.monotonic() - stopped)
            except BlockingIOError:
                pass
            return not alive(gone) and len(server.workers()) == 2

        try:
            until(replaced, "another worker is there", 2 * DEADLINE)
            suspended.signal(signal.SIGCONT)
            suspended.signal(signal.SIGUSR1)
            suspended.wait_log("log_reopened", pid=suspended.pid)
        finally:
            for pid in [suspended.pid, *workers]:
                os.kill(pid, signal.SIGCONT)
    server.settle()
    killed = server.wait_log("worker_killed", pid=gone)
    assert killed["reason"] == "hung"
    assert server.wait_log("worker_died", pid=gone)["signal"] == "Killed", "a stopped process can't abort"
    assert fed[-1] > 15, "the manager, which knows no more than that, would have restarted all"
    until(lambda: server.get("/health/ready")[0] == 200, "all is well again")
    assert server.metrics()["respawns_total"] == 1
    until(lambda: all(one["beat_age_ms"] < 5000 for one in suspended.metrics()["workers"]), "all loops turn")
    assert suspended.workers() == workers and not suspended.log_events("worker_killed")


def test_workers_die_with_the_master(chatd):
    server = chatd(workers=4)
    workers = server.workers()
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in workers), "the workers are gone")
    server.process.wait()
    server.process = None
    server.start()


async def test_sixty_four_workers(chatd, people):
    server = chatd(workers=64)
    clients = await asyncio.gather(*(people.connect(f"user{i}") for i in range(150)))
    for client in clients:
        await client.join("r")
    used = set(server.workers_of([(c.address[0], c.address[1]) for c in clients]))
    assert len(used) > 20, "connections are spread"
    acks = [await client.say("r", "hi", key=client.user) for client in clients[:20]]
    for client in clients:
        await eventually(lambda c=client: len(c.rooms["r"].seen) == 20, "everybody sees everything")
        assert client.rooms["r"].numbers() == [ack["seq"] for ack in acks]
    assert len(server.metrics()["workers"]) == 64
    await people.aclose()
    assert await asyncio.to_thread(server.stop) == 0


# -- stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_sends_clients_away_and_exits_with_0(chatd, people, number):
    server = chatd(workers=2)
    clients = [await people.member(f"user{i}", "r") for i in range(10)]
    ack = await clients[0].say("r", "last words")
    server.signal(number)
    stopping = asyncio.create_task(asyncio.to_thread(server.wait_stopped))
    for client in clients:
        event = await client.expect("reconnect")
        assert 0 <= event["after_ms"] <= 60_000
        assert await client.wait_ended() == 1001
    assert await stopping == 0
    server.start()
    back = await people.member("back", "r")
    assert [m["seq"] for m in await back.history("r")] == [ack["seq"]]


def test_stop_does_not_wait_for_those_who_do_not_answer(chatd):
    server = chatd(workers=2)
    with Wire(server) as mute, Wire(server) as half:
        mute.chat("mute", "r")
        half.send("GET / HT")
        assert server.stop() == 0


def test_stop_without_clients_is_at_once_and_repeated_signals_do_no_harm(chatd):
    server = chatd(workers=2)
    server.signal(signal.SIGTERM)
    for _ in range(20):
        if server.process.poll() is None:
            server.signal(signal.SIGTERM)
    assert server.wait_stopped() == 0


# -- HUP, USR1, files ----------------------------------------------------------------------------------------


async def test_hup_reloads_what_is_reloadable(chatd, people):
    server = chatd(
        workers=2, conf="message_rate_limit = 0\nmax_text_bytes = 4096\n", env={"MESSAGE_RATE_LIMIT": None}
    )
    ana = await people.member("ana", "r")
    port = server.port
    server.conf_path.write_text("message_rate_limit = 2\nmax_text_bytes = 10\n")
    server.signal(signal.SIGHUP)
    until(lambda: len(server.log_events("draining")) == 2, "the old workers take nobody any more")

    async def new_limits():
        client = await people.connect("probe")
        try:
            return client.welcome["limits"]["text"] == 10
        finally:
            await client.close()

    await eventually(new_limits, "new connections have the new limits")
    bob = await people.member("bob", "r")
    for _ in range(2):
        await bob.say("r", "short")
    await bob.refused("rate_limited", "message", room="r", text="short")
    await bob.refused("too_large", "message", room="r", text="x" * 11)
    assert server.port == port and len(server.metrics()["workers"]) >= 2
    # Whether ana was kept or sent away: she is never cut without a word.
    if ana.ended.is_set():
        assert ana.close_code == 1001 and ana.seen("reconnect")
    await people.aclose()
    until(lambda: len(server.workers()) == 2, "the old workers are gone")
    server.settle()


async def test_hup_with_a_wrong_file_changes_nothing(chatd, people):
    server = chatd(workers=2, conf="max_text_bytes = 50\n", allow=["reload", "max_text_bytes", "config"])
    server.conf_path.write_text("max_text_bytes = lots\n")
    size = len(server.log_text())
    server.signal(signal.SIGHUP)
    until(lambda: "lots" in server.log_text()[size:], "the log says what is wrong")
    ana = await people.member("ana", "r")
    assert ana.welcome["limits"]["text"] == 50
    await ana.say("r", "hi")


def test_usr1_opens_the_log_file_again(chatd, tmp_path):
    log = tmp_path / "chatd.log"
    server = chatd(workers=2, env={"LOG_FILE": str(log)}, start=False)
    server.log_path.unlink()
    server.log_path = log
    log.touch()
    server.start()
    moved = tmp_path / "chatd.log.1"
    log.rename(moved)
    server.signal(signal.SIGUSR1)
    until(log.exists, "the file is there again")
    server._checked = server._read_from = 0
    gone = server.kill_worker(0)
    server.wait_respawned(gone)
    until(lambda: str(gone) in log.read_text(), "the master writes to the new file")
    new = server.workers()[-1]
    until(lambda: any(e["pid"] == new for e in server.log_events()), "the workers do, too")
    assert str(gone) not in moved.read_text().splitlines()[-1]


def test_pid_file(chatd, tmp_path):
    path = tmp_path / "chatd.pid"
    server = chatd(workers=1, env={"PID_FILE": str(path)})
    assert path.read_text().strip() == str(server.pid)
    assert server.stop() == 0
    assert not path.exists(), "it is removed at the end"


def test_data_dir_is_made_and_private(chatd, tmp_path):
    data = tmp_path / "new" / "data"
    server = chatd(workers=1, env={"DATA_DIR": str(data)})
    assert (data / "chat.db").exists()
    assert (
        stat.S_IMODE((data / "chat.db").stat().st_mode) & 0o077 == 0
        or stat.S_IMODE(data.stat().st_mode) & 0o077 == 0
    )
    assert server.stop() == 0


def test_state_directory_is_the_default_data_dir(chatd, tmp_path):
    """As systemd's StateDirectory= names it."""
    os.environ.pop("STATE_DIRECTORY", None)
    server = chatd(workers=1, env={"DATA_DIR": None, "STATE_DIRECTORY": str(tmp_path)})
    assert (tmp_path / "chat.db").exists()
    assert server.stop() == 0


# -- two of them ---------------------------------------------------------------------------------------------


def refused_start(env, conf=None, tmp_path=None):
    """Starts a chatd that must not come up; returns what it says."""
    args = []
    if conf is not None:
        path = tmp_path / "chat.conf"
        path.write_text(conf)
        args = ["-c", str(path)]
    done = run_chatd(*args, env={"HOST": "127.0.0.1", "PORT": "0", "MAX_WORKERS": "1", **env})
    assert done.returncode not in (0, None) and done.returncode > 0, "refused, not crashed"
    return done.stdout + done.stderr


def test_second_chatd_on_the_same_data_dir_is_refused(chatd):
    server = chatd(workers=2)
    said = refused_start({"DATA_DIR": server.data_dir})
    assert str(server.data_dir) in said
    assert server.get("/health")[0] == 200


def test_second_chatd_on_the_same_port_is_refused(chatd, tmp_path):
    server = chatd(workers=2)
    for host in ("127.0.0.1", "0.0.0.0"):
        said = refused_start({"DATA_DIR": tmp_path / "other", "PORT": server.port, "HOST": host})
        assert str(server.port) in said
    for _ in range(20):
        assert server.get("/health")[0] == 200


def test_port_of_another_program_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused_start({"DATA_DIR": tmp_path / "data", "PORT": port})


def test_data_dir_is_free_again_after_a_kill(chatd):
    server = chatd(workers=2)
    for _ in range(3):
        server.kill_all()
        server.start()


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, key, value, allowed",
    [
        ("port = banana", "port", "banana", "65535"),
        ("port = 70000", "port", "70000", "65535"),
        ("workers = 0", "workers", "0", "256"),
        ("workers = many", "workers", "many", "auto"),
        ("mode = test", "mode", "test", "production"),
        ("handshake_timeout = fast", "handshake_timeout", "fast", "ms"),
        ("bus_log_bytes = 10", "bus_log_bytes", "10", "1"),
        ("message_rate_limit = often", "message_rate_limit", "often", "/"),
        ("max_connections_per_ip = -1", "max_connections_per_ip", "-1", "10000000"),
    ],
    ids=str,
)
def test_wrong_setting_in_the_file_stops_the_start(tmp_path, line, key, value, allowed):
    said = refused_start(
        {"MAX_WORKERS": None, "PORT": None, "DATA_DIR": tmp_path / "data"},
        f"# a comment\n\n{line}\n",
        tmp_path,
    )
    assert (
        "chat.conf" in said
        and re.search(r"\b3\b", said)
        and key in said
        and value in said
        and allowed in said
    )


@pytest.mark.parametrize(
    "text, line, word",
    [
        ("prot = 5000\n", 1, "prot"),
        ("port = 5000\nhost\n", 2, "host"),
        ("port = 5000\n\nport = 5001\n", 3, "port"),
        ("\xff\xfe\n", 1, "chat.conf"),
        ("= 5\n", 1, "chat.conf"),
    ],
    ids=range(5),
)
def test_wrong_lines_in_the_file_stop_the_start(tmp_path, text, line, word):
    said = refused_start({"DATA_DIR": tmp_path / "data"}, text, tmp_path)
    assert "chat.conf" in said and re.search(rf"\b{line}\b", said) and word in said


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("PORT", "banana", "65535"),
        ("MAX_WORKERS", "257", "256"),
        ("NODE_ENV", "staging", "development"),
        ("SEND_QUEUE_BYTES", "1T", "K"),
        ("MAX_CONNECTIONS_PER_IP", "fifty", "10000000"),
        ("HOST", "not an address", ""),
    ],
    ids=str,
)
def test_wrong_setting_in_the_environment_stops_the_start(tmp_path, name, value, allowed):
    said = refused_start({"DATA_DIR": tmp_path / "data", name: value})
    assert name in said and value in said and allowed in said


def test_every_wrong_setting_is_named_at_once(tmp_path):
    said = refused_start(
        {"DATA_DIR": tmp_path / "data", "PORT": "x1", "SESSION_TTL": "x2"}, "ping_interval = x3\n", tmp_path
    )
    assert "x1" in said and "x2" in said and "x3" in said


def test_missing_file_stops_the_start(tmp_path):
    done = run_chatd("-c", str(tmp_path / "none.conf"))
    assert done.returncode > 0 and "none.conf" in done.stdout + done.stderr


def test_environment_wins_over_the_file(chatd):
    server = chatd(
        workers=None,
        conf="workers = 3\nhost = 127.0.0.1\nmax_text_bytes = 20\n",
        env={"MAX_WORKERS": "1", "HOST": None},
    )
    until(lambda: len(server.workers()) == 1, "MAX_WORKERS counts")


def dump(*args, env=None):
    """`chatd -t …` as {key: (value, origin)}."""
    done = run_chatd("-t", *args, env=env)
    assert done.returncode == 0, done.stderr
    rows = {}
    for line in done.stdout.splitlines():
        match = re.match(r"^([a-z_]+) = (.*?)\s*# ?(.*)$", line)
        if match:
            rows[match[1]] = (match[2].strip(), match[3])
    return rows


def test_t_prints_every_setting_and_where_it_came_from(tmp_path):
    table = re.findall(r"^CONFIG\(\w+, (\w+), \"", (ROOT / "include/chatd/config.def").read_text(), re.M)
    conf = tmp_path / "chat.conf"
    conf.write_text("\nport = 5001\nmax_text_bytes = 2K\n")
    rows = dump("-c", str(conf), env={"PORT": "5002", "HOME": str(tmp_path)})
    assert sorted(rows) == sorted(table)
    assert rows["port"][0] == "5002" and re.search("PORT|environment", rows["port"][1])
    assert "chat.conf" in rows["max_text_bytes"][1] and re.search(r"\b3\b", rows["max_text_bytes"][1])
    assert "default" in rows["ping_interval"][1]
    assert not (tmp_path / ".local").exists(), "a check makes nothing"


def test_t_reports_what_is_wrong(tmp_path):
    conf = tmp_path / "chat.conf"
    conf.write_text("port = x\n")
    done = run_chatd("-t", "-c", str(conf))
    assert done.returncode > 0 and "port" in done.stdout + done.stderr


def test_errors_repeat_no_secrets(chatd, tmp_path):
    wrong = (
        "alert_webhok = https://u:s3cret@example/s3cret\n"
        "alert_webhook = ftp://u:s3cret@example\n"
        "redis_password = s3cret\nredis_password = s3cret2\n"
    )
    conf = tmp_path / "chat.conf"
    conf.write_text(wrong)
    for done in (run_chatd("-t", "-c", str(conf)), run_chatd("-c", str(conf))):
        said = done.stdout + done.stderr
        assert done.returncode == 1 and "s3cret" not in said
        assert "chat.conf:1: alert_webhok: unknown key; did you mean `alert_webhook`?" in said
        assert "chat.conf:2: alert_webhook = ********: must be" in said
        assert "chat.conf:4: redis_password = ********: is set twice, first in line 3" in said
    server = chatd(workers=1, conf="", allow=["reload"])
    server.conf_path.write_text(wrong)
    server.signal(signal.SIGHUP)
    until(lambda: "is set twice" in server.log_text(), "the reload is refused")
    assert "reload_failed" in server.log_text() and "s3cret" not in server.log_text()


def test_the_example_file_is_the_defaults():
    example = ROOT / "chat.conf.example"
    defaults, from_file = dump(), dump("-c", str(example))
    assert {key: value for key, (value, _) in from_file.items()} == {
        key: value for key, (value, _) in defaults.items()
    }
    text = example.read_text()
    assert all(re.search(rf"^{key} =", text, re.M) for key in defaults), "complete"


def test_v_and_h():
    done = run_chatd("-V")
    assert done.returncode == 0 and re.match(r"chatd \S+", done.stdout)
    done = run_chatd("-h")
    assert done.returncode == 0 and all(option in done.stdout for option in ("-c", "-t", "-V", "-h"))
    assert run_chatd("--help").stdout == done.stdout
    assert run_chatd("--version").stdout == run_chatd("-V").stdout


@pytest.mark.parametrize("args", [["-x"], ["-c"], ["surplus"]], ids=str)
def test_wrong_options_are_refused(args):
    done = run_chatd(*args)
    assert done.returncode > 0 and done.stderr


def test_limits_may_be_very_large(chatd):
    server = chatd(
        workers=1,
        env={
            "MAX_CONNECTIONS_PER_IP": "10000000",
            "MESSAGE_RATE_LIMIT": "10000000",
            "TYPING_RATE_LIMIT": "10000000",
        },
    )
    with Wire(server) as wire:
        wire.chat("ana", "r")


def test_development_mode_logs_readable_lines(tmp_path):
    """The other tests read JSON lines; this one starts by hand."""
    env = clean_env({"HOST": "127.0.0.1", "PORT": "0", "MAX_WORKERS": "1", "DATA_DIR": tmp_path / "data"})
    log = tmp_path / "log"
    with open(log, "w") as sink:
        process = subprocess.Popen([binary()], env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        until(lambda: "listening" in log.read_text(), "it listens")
        assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} info +listening .*port=\d+", log.read_text(), re.M)
    finally:
        process.terminate()
        process.wait(DEADLINE)
        for path in re.findall(r"path=(/dev/shm/chatd-\S+)", log.read_text()):
            Path(path).unlink(missing_ok=True)


def test_log_lines_are_json_with_time_level_event_and_pid(chatd):
    server = chatd(workers=2)
    assert server.stop() == 0
    lines = server.log_text().splitlines()
    assert len(server.log_events()) == len(lines)
    for event in server.log_events():
        assert event["level"] in ("debug", "info", "warn", "error") and event["event"] and event["pid"] > 0
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", event["time"])


def test_the_log_says_how_many_descriptors_there_are(chatd):
    server = chatd(workers=1)
    assert any(re.search("nofile|descriptor", str(event)) for event in server.log_events())


# -- systemd -------------------------------------------------------------------------------------------------


def test_sd_notify(chatd, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(DEADLINE)
        said = []

        def hear(line):
            while not any(line in message.splitlines() for message in said):
                said.append(notify.recv(4096).decode())

        server = chatd(workers=2, env={"NOTIFY_SOCKET": path})
        hear("READY=1")
        first = said[-1]
        server.signal(signal.SIGHUP)
        hear("RELOADING=1")
        assert any("MONOTONIC_USEC=" in message for message in said)
        said.remove(first)
        hear("READY=1")
        until(lambda: len(server.workers()) == 2, "the old workers are gone")
        server.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert server.wait_stopped() == 0


def test_sd_notify_in_the_abstract_namespace(chatd):
    name = f"chatd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind("\0" + name)
        notify.settimeout(DEADLINE)
        chatd(workers=1, env={"NOTIFY_SOCKET": "@" + name})
        while b"READY=1" not in notify.recv(4096):
            pass
