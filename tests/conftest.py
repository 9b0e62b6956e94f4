"""Fixtures for every test that runs a chatd. README.md says how the tests are laid out."""

import asyncio
import inspect
import itertools
import os
import resource
import sys

import pytest

sys.dont_write_bytecode = True

from support.chatd import Chatd
from support.client import Clients
from support.redis_groups import Cluster, Sentinel
from support.servers import Database, Redis, start_mongo

_serial = itertools.count(1)

# Fixtures that chatd's Redis and MongoDB may come from.
BACKENDS = ("redis", "sentinel", "cluster", "any_redis", "mongo", "spawn")


def pytest_configure(config):
    # The MongoDB driver keeps counters in /dev/shm by process id; those of a killed process stay, and trouble the
    # next one with that id.
    os.environ.setdefault("MONGOC_DISABLE_SHM", "1")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs `async def` tests, each in a loop of its own, and closes the clients it made in that loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def body():
        try:
            await pyfuncitem.obj(**arguments)
        finally:
            for value in arguments.values():
                if isinstance(value, Clients):
                    await value.aclose()

    asyncio.run(body())
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its servers logged."""
    report = yield
    if report.failed and not hasattr(item, "logs_shown"):
        item.logs_shown = True
        for number, server in enumerate(servers_of(item)):
            if server.log_path.exists():
                report.sections.append((f"log of chatd {number}", server.log_text()[-8000:]))
        for server in backends_of(item):
            if server.log_path.exists():
                title = f"log of {server.name} on port {server.port}"
                report.sections.append((title, server.log_text()[-4000:]))
    return report


def servers_of(item):
    arguments = getattr(item, "funcargs", {})
    shared = [arguments[name] for name in ("server", "server2") if name in arguments]
    return shared + (arguments["chatd"].made if "chatd" in arguments else [])


def backends_of(item):
    """The Redis and MongoDB servers of a test."""
    arguments = getattr(item, "funcargs", {})
    used = [arguments[name] for name in BACKENDS if name in arguments and name != "spawn"]
    used += arguments["spawn"].made if "spawn" in arguments else []
    return list({id(server): server for one in used for server in one.servers}.values())


@pytest.fixture(scope="session")
def pool():
    """Servers that many tests share, one for each number of workers."""
    running = {}

    def get(workers):
        server = running.get(workers)
        if server is not None and server.process.poll() is not None:
            running.pop(workers).close(check=False)  # the test that killed it has failed already
        if workers not in running:
            running[workers] = Chatd(workers)
        return running[workers]

    yield get
    for server in running.values():
        server.close()


def _shared(pool, workers):
    server = pool(workers)
    yield server
    server.check_log()


@pytest.fixture(params=[1, 2, 4], ids=lambda n: f"{n}w")
def server(request, pool):
    """A shared server, each test once with 1, 2 and 4 workers. Use names of your own: `room`."""
    yield from _shared(pool, request.param)


@pytest.fixture
def server2(pool):
    """The shared server with 2 workers, for tests that need not be repeated."""
    yield from _shared(pool, 2)


@pytest.fixture
def chatd(people, backends):
    """Makes servers of the test's own: chatd(workers=2, env=…). Each is stopped and judged at the end.

    The first one is the server of the fixture `people`."""
    made = []

    def make(*args, start=True, **options):
        made.append(Chatd(*args, start=False, **options))
        if start:
            made[-1].start()
        people.server = people.server or made[-1]
        return made[-1]

    make.made = made
    yield make
    failures = []
    for one in made:
        try:
            one.close()
        except AssertionError as failure:
            failures.append(str(failure))
    assert not failures, "\n".join(failures)


@pytest.fixture
def people(request):
    """Clients of the test's server, closed before that is: `await people.member("ana", room)`."""
    shared = {"server", "server2"} & set(request.fixturenames)
    return Clients(request.getfixturevalue(shared.pop()) if shared else None)


@pytest.fixture
def room():
    """A room that no other test uses."""
    return f"room-{next(_serial)}"


# -- Redis and MongoDB ---------------------------------------------------------------------------------------


@pytest.fixture
def backends(request):
    """Sees to it that they outlive the chatd of the test, in whatever order the test names its fixtures."""
    for name in BACKENDS:
        if name in request.fixturenames:
            request.getfixturevalue(name)


@pytest.fixture(scope="session")
def running():
    """What takes seconds to start is kept from test to test, as long as it can be put right after each."""
    made = {}
    yield made
    for server in made.values():
        server.close()


def _kept(running, kind, make):
    if kind not in running:
        running[kind] = make()
    server = running[kind]
    yield server
    try:
        server.heal()
        server.flush()
    except Exception:
        running.pop(kind).close()
        raise


@pytest.fixture
def redis(running):
    """One redis-server, empty. For other settings: spawn(Redis, password="secret")."""
    yield from _kept(running, "redis", Redis)


@pytest.fixture
def sentinel(running):
    """A master, two replicas, three sentinels, all well, empty."""
    yield from _kept(running, "sentinel", Sentinel)


@pytest.fixture
def cluster(running):
    """Redis Cluster of three masters with a replica each, all well, empty."""
    yield from _kept(running, "cluster", Cluster)


@pytest.fixture(params=["redis", "sentinel", "cluster"])
def any_redis(request):
    """Each test once with every form of Redis."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def mongo(running):
    """A database of the test's own on a MongoDB server that many tests share."""
    if "mongo" not in running:
        running["mongo"] = start_mongo()
    database = Database(running["mongo"], f"chatd_test_{os.getpid()}_{next(_serial)}")
    yield database
    try:
        database.close()
    except Exception:
        running.pop("mongo").close()
        raise


@pytest.fixture
def spawn():
    """Starts servers for this test alone: spawn(Redis, save=True), spawn(Cluster), spawn(Proxy, redis)."""
    made = []

    def make(kind, *args, **options):
        made.append(kind(*args, **options))
        return made[-1]

    make.made = made
    yield make
    for one in reversed(made):
        one.close()


@pytest.fixture
def fleet(chatd):
    """Starts chatd servers that are one chat: fleet(servers=2, workers=2, redis=redis, mongo=mongo).

    `redis` is one of the Redis forms, or a list of Redis servers to shard over; `env` is for all of them.
    Other options go to Chatd. People are clients of the first: people.member("ana", room, server=b) of b.
    """

    def make(servers=2, workers=2, redis=None, mongo=None, env=None, **options):
        shards = redis if isinstance(redis, (list, tuple)) else [redis] if redis else []
        shared = {name: value for shard in shards for name, value in shard.env.items()}
        if shards:
            shared["REDIS"] = ",".join(shard.url for shard in shards)
        if mongo:
            shared["MONGODB_URI"] = mongo.uri
        return [chatd(workers=workers, env={**shared, **(env or {})}, **options) for _ in range(servers)]

    return make
