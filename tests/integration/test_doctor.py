"""chatd doctor on this machine: a lowered limit is the first one, and what it says to type lifts it."""

import json
import os
import re
import shutil
import subprocess

import pytest

from support.chatd import DEADLINE, ROOT, Chatd, binary, clean_env, run_chatd

ENV = {"MAX_WORKERS": "2", "MAX_CONNECTIONS_PER_IP": "0"}


def unprivileged():
    """chatd raises its own limits where it has this capability, and no lowered one would show."""
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    if not int(status["CapEff"], 16) >> 24 & 1:
        return []
    return ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]


def doctor(*args, prefix=(), env=None, data_dir="/nonexistent"):
    return subprocess.run(
        [*prefix, *unprivileged(), binary(), "doctor", *args],
        env=clean_env({**ENV, "DATA_DIR": data_dir, **(env or {})}),
        text=True,
        timeout=DEADLINE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def found(*args, **options):
    """The findings by their names, and everything that was printed."""
    done = doctor("-j", *args, **options)
    answer = json.loads(done.stdout)
    assert done.stderr == ""
    return done.returncode, answer, {check["check"]: check for check in answer["checks"]}


def test_lowered_descriptors_are_the_first_limit_and_raising_them_helps():
    lowered = ["prlimit", "--nofile=1024:1024"]
    code, answer, checks = found("-n", "5000", prefix=lowered)
    assert (code, answer["first_limit"], answer["connections"]) == (1, "open files", 2 * (1024 - 64))
    assert found(prefix=lowered)[0] == 0, "nobody asked for a number"
    advice = checks["open files"]["now"]
    again = found("-n", "5000", prefix=["sh", "-c", f'{advice} && exec "$@"', "sh"])
    assert again[0] == 0 and again[2]["open files"]["connections"] >= 5000
    paper = doctor(prefix=lowered).stdout.splitlines()
    assert paper[-1].startswith(
        "this configuration holds about 1920 connections; the first limit is open files: type ulimit -n "
    )


async def test_as_many_as_it_says_are_held(people):
    """Against a chatd that runs: its limits count, not those of who asks."""
    with Chatd(workers=1, prefix=["prlimit", "--nofile=160:160", *unprivileged()]) as server:
        _, answer, checks = found(env={"MAX_WORKERS": "1"}, data_dir=str(server.data_dir))
        assert (answer["first_limit"], answer["connections"]) == ("open files", 160 - 64)
        assert "the chatd that runs" in checks["open files"]["reason"]
        people.server = server
        for number in range(answer["connections"]):
            await people.connect(f"u{number}")
        assert server.metrics()["connections"] == answer["connections"]
        assert server.metrics()["refused_total"] == 0
        await people.aclose()


def without_rights():
    """Root's are the right to look into any directory."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def test_a_lock_that_can_not_be_read_is_said(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
    note = f"can't see whether a chatd runs on {closed} (permission): run as root"
    assert found(data_dir=str(closed), prefix=without_rights())[1]["note"] == note
    paper = doctor(data_dir=str(closed), prefix=without_rights()).stdout
    assert f"note: {note} this configuration holds" in " ".join(paper.split())
    assert found()[1]["note"] == ""
    closed.chmod(0o700)


def test_the_chatd_of_the_package_is_looked_at_when_nothing_else_is_named(tmp_path):
    """In a file system of its own, whose /var/lib has nothing else."""
    own = ["unshare", "-m", "sh", "-c"]
    probe = subprocess.run([*own, "mount -t tmpfs none /var/lib"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no mount namespace here: {probe.stderr.strip()}")
    with Chatd(workers=1, prefix=["prlimit", "--nofile=160:160", *unprivileged()]) as server:
        pid = (server.data_dir / "lock").read_text().strip()
        make = f"mount -t tmpfs none /var/lib && mkdir /var/lib/chatd && echo {pid} >/var/lib/chatd/lock"
        prefix = [*own, f'{make} && exec "$@"', "sh"]
        env = {"DATA_DIR": None, "HOME": str(tmp_path), "MAX_WORKERS": "1"}
        _, answer, checks = found(prefix=prefix, env=env)
        assert (answer["first_limit"], answer["connections"]) == ("open files", 160 - 64)
        assert "the chatd that runs on /var/lib/chatd" in answer["note"]
        for more in ({"STATE_DIRECTORY": str(tmp_path)}, {"DATA_DIR": str(tmp_path)}):
            assert found(prefix=prefix, env={**env, **more})[1]["note"] == ""
    assert found(prefix=prefix, env=env)[1]["note"] == "", "it has ended"


def test_what_the_advice_says_is_delivered_is_in_that_file():
    kernel = (ROOT / "deploy/sysctl/90-chatd.conf").read_text()
    source = (ROOT / "src/doctor/checks.c").read_text().split("} delivered[] = {")[1].split("};")[0]
    rows = re.findall(r'\{"([^"]+)", "([^"]+)"\}', source)
    assert rows
    for key, value in rows:
        assert f"\n{key} = {value}\n" in kernel


def in_network(*command):
    """In a network of its own, whose settings are nobody else's; the reason when there can be none."""
    probe = subprocess.run(
        ["unshare", "-n", "sysctl", "-n", "net.ipv4.ip_local_port_range"], capture_output=True
    )
    if probe.returncode != 0:
        pytest.skip(f"no network namespace here: {probe.stderr.decode().strip()}")
    return ["unshare", "-n", "sh", "-c", " && ".join([*command, 'exec "$@"']), "sh"]


@pytest.mark.skipif(
    not shutil.which("unshare") or not shutil.which("sysctl"), reason="no unshare or sysctl here"
)
def test_few_ports_are_the_first_limit_and_a_wider_range_helps():
    lower = 'sysctl -q -w net.ipv4.ip_local_port_range="40000 40099"'
    host = {"HOST": "127.0.0.1"}  # a proxy on this host
    code, answer, checks = found("-n", "5000", prefix=in_network(lower), env=host)
    assert (code, answer["first_limit"], answer["connections"]) == (1, "local ports", 100)
    advice = checks["local ports"]["now"]
    assert advice == 'sysctl -w net.ipv4.ip_local_port_range="1024 65535"'
    code, _, checks = found("-n", "5000", prefix=in_network(lower, advice + " >/dev/null"), env=host)
    assert (code, checks["local ports"]["connections"]) == (0, 65535 - 1024 + 1)
    assert found("-a", "3", prefix=in_network(lower), env=host)[1]["connections"] == 300


def test_the_limit_for_an_address_is_the_first_behind_a_proxy():
    default = {"MAX_CONNECTIONS_PER_IP": None}
    code, answer, checks = found("-n", "5000", "-a", "2", env=default)
    assert (code, answer["first_limit"], answer["connections"]) == (1, "max_connections_per_ip", 100)
    assert checks["max_connections_per_ip"]["keep"].endswith("max_connections_per_ip = 0")
    advice = "max_connections_per_ip = 0 and send HUP"
    assert checks["max_connections_per_ip"]["set"].startswith(advice)
    assert checks["max_connections_per_ip"]["now"] == "", "it is no command"
    paper = doctor("-a", "2", env=default).stdout
    assert f"    set:  {advice}" in paper and f"is max_connections_per_ip: set {advice}" in paper
    assert found("-a", "0", env=default)[1]["first_limit"] != "max_connections_per_ip"


def test_too_few_processes_hold_nobody():
    code, answer, _ = found(prefix=["prlimit", "--nproc=5:5"])
    assert (code, answer["first_limit"], answer["connections"]) == (1, "tasks", 0)


def test_a_log_too_large_for_shared_memory_holds_nobody():
    code, answer, checks = found(env={"BUS_LOG_BYTES": "64G"})
    shm = os.statvfs("/dev/shm")
    if shm.f_bavail * shm.f_frsize > 64 << 30:
        pytest.skip("/dev/shm has more than 64 GiB")
    assert (code, answer["connections"], checks["/dev/shm"]["connections"]) == (1, 0, 0)


def test_a_copy_of_another_machine_is_looked_at(tmp_path):
    for path, content in {
        "proc/sys/fs/nr_open": "5000\n",
        "proc/self/limits": "Max open files            1024                 524288               files\n",
        "proc/stat": "cpu 1\ncpu0 1\ncpu1 1\ncpu2 1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    _, answer, checks = found("-r", str(tmp_path), env={"MAX_WORKERS": None})
    assert answer["connections"] == 3 * (5000 - 64)
    assert checks["memory"]["verdict"] == checks["data_dir"]["verdict"] == "unknown"


def test_the_paper_fits_into_100_columns():
    for args in ([], ["-n", "900000", "-a", "1"]):
        done = doctor(*args)
        assert done.stdout.splitlines()[0].split() == ["CHECK", "FOUND", "CONNECTIONS", "VERDICT"]
        *table, last = done.stdout.splitlines()
        assert max(map(len, table)) <= 100 and last.startswith("this configuration holds about ")
        assert done.returncode == (1 if args else 0)


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["-n", "0"], 2, "-n 0: expected a number from 1"),
        (["-n", "9x"], 2, "-n 9x: expected a number"),
        (["-x"], 2, "usage: chatd doctor"),
        (["more"], 2, "unexpected argument more"),
        (["-c", "/nonexistent"], 1, "wrong settings"),
    ],
)
def test_wrong_usage_is_named(args, code, words):
    done = run_chatd("doctor", *args)
    assert done.returncode == code and words in done.stderr and done.stdout == ""
