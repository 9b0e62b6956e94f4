"""What `make install` puts on a host: units under a real systemd, kernel settings that exist."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from support.backups import TOOLS, has_mongo_tools
from support.chatd import DEADLINE, ROOT, alive, binary, run_chatd, until
from support.servers import FERRETDB, Redis
from support.systemd_box import Box, Unavailable

WATCHDOG_SECONDS = 2


def make(*args, check=True):
    """The program is there already: nothing is built for these tests."""
    done = subprocess.run(["make", "--no-print-directory", "-o", "build/chatd", *args], cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def files(tree):
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An installation with a prefix of its own: what units name is there."""
    prefix = tmp_path_factory.mktemp("installed")
    make("install", f"PREFIX={prefix}", f"SYSCONFDIR={prefix}/etc")
    return prefix


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A systemd with chatd installed below /usr/local, running, and a watchdog that is short of patience."""
    tree = tmp_path_factory.mktemp("tree")
    make("install", f"DESTDIR={tree}")
    shutil.copy(binary(), tree / "usr/local/bin/chatd")
    for tool in TOOLS.glob("mongo*"):
        shutil.copy(tool, tree / "usr/local/bin")
    with open(tree / "etc/chatd/chatd.env", "a") as settings:
        settings.write("HOST=127.0.0.1\nPORT=0\nMAX_WORKERS=2\nMAX_CONNECTIONS_PER_IP=0\nDRAIN_TIMEOUT=0\n"
                       "LOG_FILE=/var/log/chatd/chatd.log\n")
    try:
        one = Box(tree)
    except Unavailable as reason:
        pytest.skip(f"systemd can't be run here: {reason}")
    one.write("/etc/systemd/system/chatd.service.d/test.conf", 
              f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nTimeoutAbortSec=1\nRestartSec=100ms\n")
    one.run("systemctl", "daemon-reload")
    try:
        one.run("systemctl", "start", "chatd")
        yield one
        one.run("systemctl", "stop", "chatd")
        assert one.show("chatd", "Result") == "success"
    except BaseException:
        print(one.run("journalctl", "--no-pager", check=False)[-8000:])
        raise
    finally:
        one.close()


def log_of(box, event):
    lines = [json.loads(line) for line in box.read("/var/log/chatd/chatd.log").splitlines()]
    return [line for line in lines if line["event"] == event]


def server_in(box):
    """What a client has to know of the chatd inside: it shares our network."""
    port = log_of(box, "listening")[-1]["port"]
    return SimpleNamespace(ws_url=f"ws://127.0.0.1:{port}/ws", port=port)


def wait_active(box, restarts):
    until(lambda: int(box.show("chatd", "NRestarts")) > restarts and box.show("chatd", "ActiveState") == "active",
          "systemd started chatd anew")


# -- files ---------------------------------------------------------------------------------------------------


def test_installed_units_are_valid(installed):
    units = sorted((installed / "lib/systemd/system").iterdir())
    assert {"chatd.service", "chatd-backup-sqlite.timer"} <= {unit.name for unit in units}
    for unit in units:
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True,
                              timeout=DEADLINE)
        assert done.returncode == 0 and str(installed) not in done.stderr, done.stderr


def test_exposure_is_two_at_most(installed):
    for unit in (installed / "lib/systemd/system").glob("*.service"):
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
                              capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stdout[-200:] + done.stderr
        assert float(re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)[1]) <= 2.0


def test_what_an_operator_reads_is_installed(installed):
    """What has to be copied to its place by hand is at hand without the sources."""
    doc = installed / "share/doc/chatd"
    wanted = {"README.md", "logs.md", "metrics.md", "nginx/chatd.conf", "nginx/names.conf", "nginx/nginx.conf",
              "nginx/servers.conf", "prometheus/chatd.rules.yml", "prometheus/prometheus.yml", "grafana/chatd.json"}
    assert files(doc) == wanted
    for name in wanted:
        assert (doc / name).read_bytes() == (ROOT / "deploy" / name).read_bytes()
        assert (doc / name).stat().st_mode & 0o777 == 0o644


def test_settings_name_the_directory_of_the_unit(installed):
    """So that `chatd doctor -c` in a shell, without the unit's environment, looks at the same data."""
    own = (installed / "etc/chatd/chat.conf").read_text().splitlines()
    example = (installed / "etc/chatd/chat.conf.example").read_text().splitlines()
    directory = re.search(r"^StateDirectory=(\S+)$", (ROOT / "deploy/systemd/chatd.service").read_text(), re.M)[1]
    assert [line for line in own if line not in example] == [f"data_dir = /var/lib/{directory}"]
    assert len(own) == len(example)
    checked = run_chatd("-t", "-c", installed / "etc/chatd/chat.conf")
    assert checked.returncode == 0 and f"data_dir = /var/lib/{directory}" in checked.stdout, checked


def test_uninstall_leaves_settings_alone(tmp_path):
    make("install", f"DESTDIR={tmp_path}")
    settings = tmp_path / "etc/chatd/chat.conf"
    settings.write_text("port = 5001\n")
    assert (tmp_path / "etc/chatd/chatd.env").stat().st_mode & 0o777 == 0o600
    make("install", f"DESTDIR={tmp_path}")
    assert settings.read_text() == "port = 5001\n"
    make("uninstall", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == {f"etc/chatd/{name}" for name in ("chat.conf", "chatd.env", "backup.env")}


def settings_of(path):
    lines = [line.split("=", 1) for line in path.read_text().splitlines() if line and line[0] not in "#;"]
    return {key.strip(): value.strip() for key, value in lines}


def test_kernel_settings_exist():
    settings = settings_of(ROOT / "deploy/sysctl/90-chatd.conf")
    for key, value in settings.items():
        path = Path("/proc/sys") / key.replace(".", "/")
        # Some containers don't show all of them.
        if path.parent.exists() and any(path.parent.iterdir()):
            assert path.exists(), f"there is no {key}"
            if "," not in value and path.read_text().strip():
                assert len(path.read_text().split()) == len(value.split()), key
    # The guide's, or more.
    assert int(settings["net.core.somaxconn"]) >= 65535
    assert int(settings["net.ipv4.tcp_max_syn_backlog"]) >= 65535
    assert int(settings["net.core.netdev_max_backlog"]) >= 5000


def test_no_server_of_ours_loses_its_port():
    """The range of ports for outgoing connections begins below the ports that our own files name."""
    settings = settings_of(ROOT / "deploy/sysctl/90-chatd.conf")
    reserved = set(settings["net.ipv4.ip_local_reserved_ports"].split(","))
    compose = yaml.safe_load((ROOT / "deploy/docker/docker-compose.yml").read_text())
    published = {str(port).split(":")[-2] for service in compose["services"].values()
                 for port in service.get("ports", ())}
    published = {port for port in published if port.isdigit() and int(port) > 1023}
    assert {"3000", "5000", "6379", "9090", "26379", "27017"} | published <= reserved


def test_doctor_speaks_of_the_same_kernel_settings():
    """Each setting that `chatd doctor` may name is in the file, with a value or with the reason why it has none."""
    text = (ROOT / "deploy/sysctl/90-chatd.conf").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "src/doctor").glob("*.c"))
    keys = set(re.findall(r'"((?:net|fs|vm|kernel)\.[a-z0-9_.]+)"', sources))
    assert "fs.nr_open" in keys
    assert {key for key in keys if key not in text} == set()


def test_limits_are_no_higher_than_the_kernel_allows():
    most = int(settings_of(ROOT / "deploy/sysctl/90-chatd.conf")["fs.nr_open"])
    lines = (ROOT / "deploy/limits/90-chatd.conf").read_text().splitlines()
    limits = [line.split() for line in lines if line and line[0] != "#"]
    assert {"chatd"} <= {limit[0] for limit in limits}
    for _, kind, item, value in limits:
        assert kind in ("soft", "hard") and item == "nofile" and int(value) <= most
    unit = (ROOT / "deploy/systemd/chatd.service").read_text()
    assert int(re.search(r"^LimitNOFILE=(\d+)$", unit, re.M)[1]) <= most


# -- under systemd -------------------------------------------------------------------------------------------


async def test_serves_in_its_sandbox(box, people):
    people.server = server_in(box)
    ana = await people.member("ana", "sandbox")
    ben = await people.member("ben", "sandbox")
    ack = await ana.say("sandbox", "through the sandbox")
    await ben.expect("message", seq=ack["seq"])
    processes = box.processes("chatd")
    assert len(processes) == 3
    for pid in processes:
        status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M))
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert "0" not in status["Uid"].split()
    assert box.run("stat", "-c", "%U %a", "/var/lib/chatd/chat.db").split() == ["chatd", "600"]


async def test_reload_takes_new_settings_over(box, people):
    old = box.processes("chatd")
    box.write("/etc/chatd/chat.conf", "message_rate_limit = 2\n")
    box.run("systemctl", "reload", "chatd")
    until(lambda: not any(alive(pid) for pid in old[1:]), "the old workers are gone")
    people.server = server_in(box)
    zoe = await people.member("zoe", "reload")
    for text in ("one", "two"):
        await zoe.say("reload", text)
    await zoe.refused({"rate_limited"}, "message", room="reload", text="three")
    assert box.processes("chatd")[0] == old[0]
    box.write("/etc/chatd/chat.conf", "")
    now = box.processes("chatd")
    box.run("systemctl", "reload", "chatd")
    until(lambda: not any(alive(pid) for pid in now[1:]), "these as well")


async def test_killed_whole_it_is_started_again_on_the_same_ring(box, people):
    people.server = server_in(box)
    ana = await people.member("ana", "killed")
    before = [await ana.say("killed", f"before {i}") for i in range(5)]
    ring = log_of(box, "bus_ready")[-1]["path"]
    restarts = int(box.show("chatd", "NRestarts"))
    box.run("systemctl", "kill", "--kill-who=all", "--signal=KILL", "chatd")
    wait_active(box, restarts)
    assert log_of(box, "bus_ready")[-1]["path"] == ring, "RemoveIPC or a private /dev/shm took the ring away"
    people.server = server_in(box)
    ben = await people.connect("ben")
    joined = await ben.join("killed", since=0)
    assert [message["seq"] for message in joined["messages"]] == [ack["seq"] for ack in before]
    assert (await ben.say("killed", "after"))["seq"] == before[-1]["seq"] + 1, "the ring was made anew"


def test_master_that_hangs_is_found_by_the_watchdog(box):
    """A worker that hangs is the master's affair (test_master.py); who looks after the master is systemd."""
    restarts = int(box.show("chatd", "NRestarts"))
    processes = box.processes("chatd")
    os.kill(processes[0], signal.SIGSTOP)
    wait_active(box, restarts)
    assert not any(alive(pid) for pid in processes)
    assert "Watchdog timeout" in box.journal("chatd")


def test_watchdog_is_fed(box):
    """Twice in its time: so it never comes near the end of it."""
    restarts = box.show("chatd", "NRestarts")
    seen = set()
    until(lambda: len(seen.add(box.show("chatd", "WatchdogTimestampMonotonic")) or seen) > 2, "beats arrive")
    assert box.show("chatd", "NRestarts") == restarts and box.show("chatd", "ActiveState") == "active"


def test_log_file_is_opened_anew_after_rotation(box):
    text = (ROOT / "deploy/systemd/chatd.logrotate").read_text()
    command = re.search(r"postrotate\n\s*(.*)\n\s*endscript", text)[1]
    box.run("mv", "/var/log/chatd/chatd.log", "/var/log/chatd/chatd.log.1")
    box.run("sh", "-c", command)
    path = f"/proc/{box.init}/root/var/log/chatd/chatd.log"
    until(lambda: os.path.exists(path) and log_of(box, "log_reopened"), "the new file is written to")
    box.run("sh", "-c", "cat /var/log/chatd/chatd.log.1 /var/log/chatd/chatd.log >/var/log/chatd/both &&"
            " mv /var/log/chatd/both /var/log/chatd/chatd.log.1")


def test_wrong_settings_are_not_tried_for_ever(box):
    box.run("systemctl", "stop", "chatd")
    box.run("systemctl", "reset-failed", "chatd", check=False)
    box.write("/etc/chatd/chat.conf", "no_such_setting = 1\n")
    box.run("systemctl", "start", "chatd", check=False)
    until(lambda: box.show("chatd", "ActiveState") == "failed", "systemd gave up")
    assert box.show("chatd", "NRestarts") == "5"
    assert "no_such_setting" in box.journal("chatd")
    box.write("/etc/chatd/chat.conf", "")
    box.run("systemctl", "reset-failed", "chatd")
    box.run("rm", "-f", "/var/log/chatd/chatd.log")
    box.run("systemctl", "start", "chatd")


def run_backup(box, name, kind):
    box.run("systemctl", "start", name, check=False)
    assert box.show(name, "Result") == "success", box.journal(name)
    found = box.run("sh", "-c", f"ls -d /var/backups/chatd/{kind}/[0-9]*").split()
    box.run("/usr/local/sbin/chatd-restore", "check", found[-1])
    return found[-1]


async def test_backup_of_sqlite_runs_in_its_sandbox(box, people):
    people.server = server_in(box)
    await (await people.member("ana", "backup")).say("backup", "saved")
    made = run_backup(box, "chatd-backup-sqlite", "sqlite")
    assert box.run("stat", "-c", "%U %a", made).split() == ["chatd", "700"]
    # What SQLite made beside the database is chatd's: it goes on writing.
    await (await people.member("ben", "backup")).say("backup", "after")


def test_backup_of_redis_runs_in_its_sandbox(box, spawn):
    redis = spawn(Redis, config=("repl-diskless-sync-delay 0",))
    box.write("/etc/chatd/backup.env", f"REDIS=redis://localhost:{redis.port}\n")
    made = run_backup(box, "chatd-backup-redis", "redis")
    assert box.run("stat", "-c", "%U %a", made).split() == ["chatd-backup", "700"]


def test_backup_of_mongodb_runs_in_its_sandbox(box, request):
    if not has_mongo_tools():
        pytest.skip("no mongodump, and none was built")
    mongo = mongo_or_skip(request)
    mongo.db.messages.insert_one({"room": "r", "seq": 1})
    box.write("/etc/chatd/backup.env", f"MONGODB_URI={mongo.uri}\n")
    run_backup(box, "chatd-backup-mongodb-full", "mongodb")
    until(lambda: run_backup(box, "chatd-backup-mongodb-incremental", "mongodb").endswith("-incremental"), "a second")


def mongo_or_skip(request):
    if not (os.environ.get("MONGODB_URI") or shutil.which("mongod") or FERRETDB.exists()):
        pytest.skip("no mongod, and no stand-in was built")
    return request.getfixturevalue("mongo")


async def test_redis_and_mongodb_are_reached_from_the_sandbox(box, people, redis, request):
    """By names, so that resolving them is among what the sandbox lets through."""
    mongo = mongo_or_skip(request)
    settings = box.read("/etc/chatd/chatd.env")
    box.write("/etc/chatd/chatd.env", f"{settings}REDIS=redis://localhost:{redis.port}\n"
              f"MONGODB_URI={mongo.uri.replace('127.0.0.1', 'localhost')}\n", 0o600)
    box.run("systemctl", "reset-failed", "chatd", check=False)
    box.run("systemctl", "restart", "chatd")
    people.server = server_in(box)
    await (await people.member("ana", "shared")).say("shared", "by way of both")
    assert mongo.db.messages.count_documents({"room": "shared"}) == 1
    await people.aclose()
    box.write("/etc/chatd/chatd.env", settings, 0o600)
    box.run("systemctl", "restart", "chatd")


def test_timers_wait_for_their_hour(box):
    timers = [path.name for path in (ROOT / "deploy/backup").glob("*.timer")]
    assert len(timers) == 4
    for timer in timers:
        box.run("systemctl", "start", timer)
        assert box.show(timer, "NextElapseUSecRealtime")
        assert box.show(timer, "Persistent") == "yes"
        box.run("systemctl", "stop", timer)
