"""Fixtures for every test that runs a chatd. README.md says how the tests are laid out."""

import asyncio
import inspect
import itertools
import resource
import sys

import pytest

sys.dont_write_bytecode = True

from support.chatd import Chatd
from support.client import Clients

_serial = itertools.count(1)


def pytest_configure(config):
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
    return report


def servers_of(item):
    arguments = getattr(item, "funcargs", {})
    shared = [arguments[name] for name in ("server", "server2") if name in arguments]
    return shared + (arguments["chatd"].made if "chatd" in arguments else [])


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
def chatd(people):
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
