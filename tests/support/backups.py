"""Runs the scripts of deploy/backup as their units do, and the load that they run under."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

from support.chatd import DEADLINE, ROOT, clean_env

SCRIPTS = ROOT / "deploy/backup"
TOOLS = ROOT / "build/mongo-tools"

# What they end with (backup.sh).
FAILED, USAGE, BUSY, DAMAGED, NOT_EMPTY = 1, 2, 3, 4, 5


def has_mongo_tools():
    return all(shutil.which(tool) or (TOOLS / tool).exists() for tool in ("mongodump", "mongorestore"))


def run_script(name, *args, code=0, **env):
    """Runs one to its end; its log lines. Settings are its environment and nothing else."""
    settings = clean_env({**env, "PATH": f"{os.environ['PATH']}:{TOOLS}"})
    done = subprocess.run([SCRIPTS / name, *map(str, args)], env=settings, text=True, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=2 * DEADLINE)
    assert done.returncode == code, f"{name} ended with {done.returncode}, not {code}:\n{done.stderr}"
    return done.stderr


def restore(*args, code=0, **env):
    return run_script("chatd-restore", *args, code=code, **env)


def backups_in(directory, what=""):
    """Those that are whole, oldest first."""
    return sorted(path for path in Path(directory).glob(f"[0-9]*-{what}*") if path.is_dir())


def processes_named(word):
    """Command lines that have that word, for secrets that must not be there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in text:
            found.append(text)
    return found


class Load:
    """People who write all the time, one message on the way each, with `pause` seconds in between. `acked` has what
    was acknowledged: {room: {key: number}}."""

    def __init__(self, clients, rooms, pause=0):
        self._pause = pause
        self.acked = {room: {} for room in rooms}
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(client, room)) for client in clients for room in rooms]

    async def _write(self, client, room):
        while not self._stop:
            key = client.next_key()
            ack = await client.say(room, f"text of {key}", key=key)
            self.acked[room][key] = ack["seq"]
            await asyncio.sleep(self._pause)

    def count(self):
        return sum(len(acks) for acks in self.acked.values())

    def snapshot(self):
        return {room: dict(acks) for room, acks in self.acked.items()}

    async def until(self, count):
        """Until there are `count` more acknowledgements."""
        goal = self.count() + count
        while self.count() < goal:
            done = [task for task in self._tasks if task.done()]
            if done:
                done[0].result()
            await asyncio.sleep(0.005)

    async def stop(self):
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def beside(self, function, *args, **options):
        """Runs something that blocks, and sees to it that people wrote meanwhile."""
        before = self.count()
        result = await asyncio.to_thread(function, *args, **options)
        assert self.count() > before, "nobody wrote while it ran"
        return result


def check_history(found, acked, everything):
    """A room's restored history has each message of `acked` under its number, once, in order, and nothing that
    wasn't said: `everything` are all acknowledgements that were ever given, here or later."""
    numbers = [message["seq"] for message in found]
    assert numbers == sorted(set(numbers)), "numbers don't rise"
    keys = {message["key"]: message["seq"] for message in found}
    assert len(keys) == len(found), "a message is there twice"
    missing = {key: seq for key, seq in acked.items() if keys.get(key) != seq}
    assert not missing, f"acknowledged before the backup and not in it: {missing}"
    assert keys.items() <= everything.items(), "something that nobody said"
    for message in found:
        assert message["text"] == f"text of {message['key']}"
