"""The servers behind chatd, as tests start, freeze, kill and restart them: a Redis, a MongoDB, a TCP proxy.

Sentinel and Cluster are in redis_groups.py. Each server has a scratch directory and a port of its own from
the kernel, keeps both over stop() and start(), and ends with this process however that ends.
"""

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymongo
import pytest
import redis as redis_client
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.chatd import DEADLINE, ROOT, until

FERRETDB = ROOT / "build" / "mongo-server"

# The kernel ends a server with the *thread* that started it: one that lives as long as the tests do.
_launcher = ThreadPoolExecutor(1)


class Port:
    """A port that stays ours while its server is down.

    A socket that is bound, but doesn't listen, refuses connections, lets the server bind as well (both with
    SO_REUSEADDR) and keeps the kernel from giving the number to some client's connection meanwhile.
    """

    def __init__(self):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number = self._socket.getsockname()[1]

    def close(self):
        self._socket.close()


class Server:
    """One process. A subclass says what to run (`command`) and when it serves (`ready`)."""

    def __init__(self, name):
        self.name = name
        self.scratch = Path(tempfile.mkdtemp(prefix=f"chatd-test-{name}-"))
        self.data_dir = self.scratch / "data"
        self.data_dir.mkdir()
        self.log_path = self.scratch / "log"
        self.log_path.touch()
        self.reserved = Port()
        self.port = self.reserved.number
        self.process = None
        self.frozen = False

    def command(self):
        raise NotImplementedError

    def ready(self):
        raise NotImplementedError

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def servers(self):
        return [self]

    def launch(self):
        """Starts it and doesn't wait: wait_ready() does."""
        assert not self.running, f"{self.name} runs already"
        args = ["setpriv", "--pdeathsig", "KILL", *(str(arg) for arg in self.command())]
        with open(self.log_path, "ab") as log:
            self.process = _launcher.submit(
                subprocess.Popen, args, cwd=self.scratch, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            ).result()
        return self

    def wait_ready(self):
        def serves():
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code}:\n{self.log_text()[-4000:]}"
            return self.ready()

        until(serves, f"{self.name} on port {self.port} serves")
        return self

    def start(self, empty=False):
        """Starts it, again after stop() or kill() on the same port; `empty` throws its data away first."""
        if empty:
            shutil.rmtree(self.data_dir)
            self.data_dir.mkdir()
        return self.launch().wait_ready()

    def stop(self):
        """TERM, then waits: what the server writes at its end is written."""
        if self.running:
            self.thaw()
            self.process.terminate()
            self.process.wait(DEADLINE)

    def kill(self):
        """As a power cut would; a frozen one as well."""
        if self.running:
            self.process.kill()
            self.process.wait(DEADLINE)
        self.frozen = False

    def freeze(self):
        """Answers nothing from now on, while its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        if self.frozen and self.running:
            self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def restart(self, empty=False):
        self.stop()
        return self.start(empty)

    def heal(self):
        """Running and thawed again, whatever a test did to it."""
        self.thaw()
        if not self.running:
            self.start()

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def close(self):
        self.kill()
        self.reserved.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Redis(Server):
    """One redis-server.

    `user` makes an ACL user with that password and turns the default user off; `unix` puts a unix socket into
    `url`; `save` keeps the data over a kill (append-only file, written at each command); `config` is lines of
    redis.conf.
    """

    def __init__(self, password=None, user=None, unix=False, save=False, config=(), start=True):
        super().__init__("redis")
        self.password, self.user = password, user
        self.unix_path = self.scratch / "redis.sock" if unix else None
        # Redis and Sentinel rewrite this file: it is written once.
        self.conf_path = self.scratch / "redis.conf"
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"dir {self.data_dir}", 'save ""',
            f"appendonly {'yes' if save else 'no'}", "appendfsync always", *config,
        ]
        if unix:
            lines.append(f"unixsocket {self.unix_path}")
        if user:
            lines += [f"user {user} on >{password} ~* &* +@all", "user default off"]
        elif password:
            lines.append(f"requirepass {password}")
        self.conf_path.write_text("\n".join(lines) + "\n")
        if start:
            self.start()

    def command(self):
        return ["redis-server", self.conf_path]

    def ready(self):
        try:
            with self.client() as client:
                return client.ping()
        except (redis_client.ConnectionError, redis_client.TimeoutError):
            return False

    @property
    def url(self):
        return f"unix://{self.unix_path}" if self.unix_path else f"redis://127.0.0.1:{self.port}"

    @property
    def env(self):
        """What chatd has to be told to use it."""
        found = {"REDIS": self.url, "REDIS_PASSWORD": self.password, "REDIS_USER": self.user}
        return {name: value for name, value in found.items() if value}

    def client(self, **options):
        """A connection of the test's own; never the one of chatd under test."""
        once = Retry(NoBackoff(), 0)
        login = {"username": self.user, "password": self.password}
        options = {"socket_timeout": 5, "decode_responses": True, "retry": once, **login, **options}
        return redis_client.Redis("127.0.0.1", self.port, **options)

    def cli(self, *args):
        """One command as an administrator would give it; its answer as text."""
        command = ["redis-cli", "--no-auth-warning", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["--user", self.user] if self.user else []
        command += ["-a", self.password] if self.password else []
        command += [str(arg) for arg in args]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE)
        return done.stdout.strip()

    def masters(self):
        return [self]

    def flush(self):
        with self.client() as client:
            client.flushall()
            client.script_flush()


class Mongo(Server):
    """A MongoDB-protocol server: mongod where there is one, else build/mongo-server (FerretDB on SQLite)."""

    def __init__(self):
        super().__init__("mongo")
        self.mongod = shutil.which("mongod")
        self.start()

    def command(self):
        if self.mongod:
            return [self.mongod, "--bind_ip", "127.0.0.1", "--port", self.port, "--dbpath", self.data_dir]
        assert FERRETDB.exists(), f"no mongod here, and no {FERRETDB}: run `make build/mongo-server`"
        return [FERRETDB, self.port, self.data_dir]

    def ready(self):
        try:
            with self.client(timeout=1000) as client:
                return client.admin.command("ping")
        except pymongo.errors.PyMongoError:
            return False

    def uri(self, database, port=None):
        return f"mongodb://127.0.0.1:{port or self.port}/{database}"

    def client(self, timeout=DEADLINE * 1000):
        return pymongo.MongoClient(
            self.uri(""), serverSelectionTimeoutMS=timeout, connectTimeoutMS=timeout, socketTimeoutMS=timeout
        )

    def stop(self):
        # FerretDB lets open connections keep it from ending for 3 s; it has no more to write than at a kill.
        super().stop() if self.mongod else self.kill()


class ForeignMongo:
    """The server that MONGODB_URI names. Tests that have to stop it are skipped."""

    servers = ()

    def __init__(self, uri):
        self.given = urllib.parse.urlsplit(uri)

    def uri(self, database, port=None):
        if port:
            self._leave_alone()
        query = self.given.query
        if self.given.username and "authSource=" not in query:
            # A user belongs to the database of the URI as it was given.
            query = f"authSource={self.given.path.strip('/') or 'admin'}" + (f"&{query}" if query else "")
        return self.given._replace(path=f"/{database}", query=query).geturl()

    def client(self):
        return pymongo.MongoClient(self.given.geturl(), serverSelectionTimeoutMS=DEADLINE * 1000)

    def _leave_alone(self, *_, **__):
        pytest.skip("needs a MongoDB of its own: MONGODB_URI is set")

    start = stop = kill = freeze = thaw = restart = _leave_alone

    def heal(self):
        """Nothing was done to it."""

    close = heal


class Database:
    """A database of one test's own, and the server it is in."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        self.client = server.client()
        self.db = self.client[name]

    @property
    def servers(self):
        return self.server.servers

    @property
    def uri(self):
        return self.server.uri(self.name)

    def uri_through(self, proxy):
        """The same database by way of a Proxy of the server's port."""
        return self.server.uri(self.name, proxy.port)

    def __getattr__(self, name):
        """port, start, stop, kill, freeze, thaw, restart are the server's."""
        return getattr(self.server, name)

    def close(self):
        self.server.heal()
        self.client.drop_database(self.name)
        self.client.close()


class Proxy:
    """Stands before a port of 127.0.0.1 and passes bytes on until told otherwise, from whatever thread; `host` is
    where it stands itself."""

    servers = ()

    def __init__(self, target, host="127.0.0.1"):
        self.target = getattr(target, "port", target)
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers = set()
        self._delay = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._run(asyncio.start_server(self._serve, host, 0))
        self.port = self._listener.sockets[0].getsockname()[1]

    def stall(self):
        """A half-open peer: nothing passes, not even an end; connections stay open and new ones are taken."""
        self._call(self._flowing.clear)

    def resume(self):
        self._call(self._flowing.set)

    def cut(self):
        """Resets every connection. New ones pass."""
        self._call(self._reset)

    def delay(self, seconds):
        """From now on each chunk towards the client waits that long."""
        self._delay = seconds

    @property
    def connections(self):
        return len(self._writers) // 2

    def close(self):
        if self._thread.is_alive():
            self._call(self._end)
            self._thread.join(DEADLINE)
            self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def _call(self, function):
        async def call():
            function()

        self._run(call())

    def _reset(self):
        for writer in self._writers:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def _end(self):
        self._listener.close()
        self._reset()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        self._loop.call_soon(self._loop.call_soon, self._loop.stop)

    async def _serve(self, from_client, to_client):
        self._writers.add(to_client)
        to_server = None
        try:
            await self._flowing.wait()
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(to_server)
            pumps = [
                asyncio.ensure_future(self._pump(from_client, to_server, slow=False)),
                asyncio.ensure_future(self._pump(from_server, to_client, slow=True)),
            ]
            # One side is gone: so is the other.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # nobody behind the proxy, or the proxy ends
        finally:
            for writer in {to_client, to_server} - {None}:
                self._writers.discard(writer)
                writer.close()

    async def _pump(self, reader, writer, slow):
        try:
            while True:
                data = await reader.read(65536)
                await self._flowing.wait()
                if slow and self._delay:
                    await asyncio.sleep(self._delay)
                    await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return


def start_mongo():
    """The server that MONGODB_URI names, or one of our own."""
    uri = os.environ.get("MONGODB_URI")
    return ForeignMongo(uri) if uri else Mongo()
