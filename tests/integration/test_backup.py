"""Backups of one host: chat.db is saved while people write, and put back into an empty directory and a used one."""

import asyncio
import fcntl
import re
import shutil
import sqlite3
import subprocess

import pytest

from support.backups import (
    BUSY, DAMAGED, FAILED, NOT_EMPTY, SCRIPTS, USAGE, Load, backups_in, check_history, restore, run_script,
)
from support.chatd import ROOT, clean_env

ROOMS = ("one", "two", "three")
# At a stop nobody has to be let down gently.
NO_DRAIN = {"DRAIN_TIMEOUT": "0"}


def save(server, directory, code=0, **env):
    return run_script("chatd-backup-sqlite", code=code, DATA_DIR=server.data_dir, BACKUP_DIR=directory, **env)


def newest(directory):
    return backups_in(directory / "sqlite")[-1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small backup for tests that break it: what the scripts look at of chatd's schema, without a chatd."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    with sqlite3.connect(data / "chat.db") as db:
        db.executescript("CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
                         "CREATE TABLE rooms(id INTEGER PRIMARY KEY, name TEXT, highest INTEGER);"
                         "CREATE TABLE messages(id INTEGER PRIMARY KEY, event BLOB);")
    run_script("chatd-backup-sqlite", DATA_DIR=data, BACKUP_DIR=out)
    return newest(out)


def new_data(tmp_path):
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


async def test_backup_under_load_has_every_acknowledged_message(chatd, people, tmp_path):
    server = chatd(env=NO_DRAIN)
    writers = [await people.member(name, *ROOMS) for name in ("ana", "ben", "cid")]
    session = writers[0].welcome["session"]
    load = Load(writers, ROOMS)
    await load.until(300)
    before = load.snapshot()
    await load.beside(save, server, tmp_path)
    await load.until(50)
    await load.stop()

    restore("sqlite", newest(tmp_path), new_data(tmp_path))
    other = chatd(data_dir=tmp_path / "data", env=NO_DRAIN)
    reader = people.new("ana", server=other)
    await reader.connect(session=session)
    assert reader.welcome["resumed"], "the key of the sessions is not that of before"
    for room in ROOMS:
        await reader.join(room)
        found = await reader.history(room)
        check_history(found, before[room], load.acked[room])
        ack = await reader.say(room, "goes on")
        assert ack["seq"] > max(load.acked[room].values()), "a number of the lost history is given again"


async def test_older_history_gives_no_number_twice_and_the_ring_is_not_believed(chatd, people, tmp_path):
    """Put back on the very host, where the ring in /dev/shm remembers the history as it went on; twice, with a
    reboot and new rooms in the time that is lost."""
    server = chatd(data_dir=new_data(tmp_path), env=NO_DRAIN)
    ana = await people.member("ana", "kept")
    kept = [await ana.say("kept", f"kept {i}") for i in range(3)]
    await asyncio.to_thread(save, server, tmp_path)
    highest = {"kept": kept[-1]["seq"], "new": 0}
    for round in range(2):
        lost = {room: await ana.say(room, "lost", key=f"lost {room} {round}") for room in await both(ana)}
        await asyncio.to_thread(server.stop)
        server.forget_bus()  # a reboot: everything is opened anew
        server.start()
        ana = await people.connect("ana")
        for room in await both(ana):
            highest[room] = (await ana.say(room, "lost as well"))["seq"]
            assert highest[room] > lost[room]["seq"]
        refused = restore("sqlite", newest(tmp_path), server.data_dir, code=BUSY)
        assert "chatd runs" in refused
        await asyncio.to_thread(server.stop)
        restore("sqlite", newest(tmp_path), server.data_dir, code=NOT_EMPTY)
        restore("--force", "sqlite", newest(tmp_path), server.data_dir)
        server.start()
        ana = await people.connect("ana")
        joined = await ana.join("kept", since=highest["kept"])
        assert joined["messages"] == []
        assert [m["seq"] for m in (await ana.history("kept"))] == [ack["seq"] for ack in kept]
        for room in await both(ana):
            # The ring knew that key; the history doesn't, so it is stored and delivered anew.
            again = await ana.say(room, "lost", key=f"lost {room} {round}", retry=True)
            assert again["seq"] > highest[room]
            assert not again.get("duplicate")
            assert (await ana.history(room))[-1]["seq"] == again["seq"]
            highest[room] = again["seq"]
        assert list(server.data_dir.glob("replaced-*/chat.db"))


async def both(client):
    """The two rooms, joined."""
    for room in ("kept", "new"):
        await client.join(room)
    return "kept", "new"


def test_damaged_backup_is_refused(saved, tmp_path):
    def broken(how):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(saved, copy)
        how(copy)
        restore("check", copy, code=DAMAGED)
        restore("sqlite", copy, new_data(tmp_path), code=DAMAGED)
        assert list((tmp_path / "data").iterdir()) == []
        (tmp_path / "data").rmdir()

    def flip(copy):
        data = bytearray((copy / "chat.db.gz").read_bytes())
        data[len(data) // 2] ^= 1
        (copy / "chat.db.gz").write_bytes(data)

    restore("check", saved)
    broken(flip)
    broken(lambda copy: (copy / "chat.db.gz").write_bytes((copy / "chat.db.gz").read_bytes()[:-1]))
    broken(lambda copy: (copy / "chat.db.gz").unlink())
    broken(lambda copy: (copy / "SHA256SUMS").unlink())
    broken(lambda copy: (copy / "session.key").write_text("planted"))
    broken(lambda copy: (copy / "manifest").write_text("kind=sqlite\n"))


def test_database_that_is_damaged_gives_no_backup(tmp_path):
    data = new_data(tmp_path)
    (data / "chat.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8000)
    run_script("chatd-backup-sqlite", code=FAILED, DATA_DIR=data, BACKUP_DIR=tmp_path)
    assert backups_in(tmp_path / "sqlite") == [] and list((tmp_path / "sqlite").glob(".partial*")) == []


def test_two_at_once_and_wrong_settings_are_refused(saved, tmp_path):
    data = new_data(tmp_path)
    run_script("chatd-backup-sqlite", code=USAGE, DATA_DIR=data, BACKUP_DIR=tmp_path)
    restore("sqlite", saved, data)
    run_script("chatd-backup-sqlite", code=USAGE, DATA_DIR=data, BACKUP_DIR=tmp_path, BACKUP_KEEP="0")
    (tmp_path / "sqlite").mkdir()
    with open(tmp_path / "sqlite/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_script("chatd-backup-sqlite", code=BUSY, DATA_DIR=data, BACKUP_DIR=tmp_path)
    restore("redis", saved, data, code=USAGE)
    restore("sqlite", tmp_path / "nothing", data, code=USAGE)
    restore(code=USAGE)


def test_force_may_stand_anywhere_and_data_dir_is_obeyed(saved, tmp_path):
    data = new_data(tmp_path)
    restore("sqlite", saved, DATA_DIR=data)
    restore("sqlite", saved, DATA_DIR=data, code=NOT_EMPTY)
    restore("sqlite", "--force", saved, DATA_DIR=data)
    restore("sqlite", saved, data, "--force", DATA_DIR=tmp_path / "nowhere")
    assert len(list(data.glob("replaced-*/chat.db"))) == 2
    assert "usage:" in restore("sqlite", saved, data, "--froce", code=USAGE)


@pytest.mark.parametrize("name", ["chatd-backup-sqlite", "chatd-backup-redis", "chatd-backup-mongodb",
                                  "chatd-restore"])
def test_help_names_every_variable_that_is_read(name):
    done = subprocess.run([SCRIPTS / name, "--help"], env=clean_env(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"usage: {name}")
    code = (SCRIPTS / name).read_text().replace(done.stdout, "")
    read = set(re.findall(r"\$\{([A-Z_]+)(?=[:}])", code)) | ({"BACKUP_DIR"} if "backup-" in name else set())
    assert {word for word in read if word not in done.stdout} == set()


def test_old_backups_go_and_halves_are_swept_up(saved, tmp_path):
    data = new_data(tmp_path)
    restore("sqlite", saved, data)
    kept = tmp_path / "sqlite"
    for day in range(1, 6):
        shutil.copytree(saved, kept / f"2020010{day}T000000Z-full")
    (kept / ".partial-20200109T000000Z-full").mkdir()
    (kept / "notes").mkdir()
    run_script("chatd-backup-sqlite", DATA_DIR=data, BACKUP_DIR=tmp_path, BACKUP_KEEP="3")
    names = [path.name for path in backups_in(kept)]
    assert names[:2] == ["20200104T000000Z-full", "20200105T000000Z-full"] and len(names) == 3
    assert not list(kept.glob(".partial*")) and (kept / "notes").exists()
    assert (kept / names[2]).stat().st_mode & 0o777 == 0o700


def test_scripts_pass_shellcheck():
    scripts = [path for path in SCRIPTS.iterdir() if path.suffix in ("", ".sh")]
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck; bash -n has nothing to say")
    done = subprocess.run(["shellcheck", "-x", "-P", SCRIPTS, "-e", "SC2015,SC2094", *scripts], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
