"""nginx with the shipped files of deploy/nginx, TLS and all, in front of two real servers."""

import asyncio
import gzip
import http.server
import json
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest
import websockets

from support.chatd import DEADLINE, ROOT, until
from support.client import SUBPROTOCOL, Lost, Refused, eventually
from support.crowd import Crowd, CrowdClient
from support.namespaces import Namespaces
from support.nginx import NAME, OUTSIDE, Nginx, missing
from support.servers import Proxy

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {' '.join(missing())}")

TOKEN = "T0kenThatNobodyMayRead"
# As the page does it (src/web/client.js): full jitter, doubled with each try that failed.
BACKOFF_BASE, BACKOFF_CAP = 0.5, 30


def pairs(servers):
    return [(server.host, server.port) for server in servers]


@pytest.fixture
def front(chatd):
    """One server with nginx before it."""
    server = chatd(workers=1)
    nginx = Nginx(pairs([server]))
    yield nginx
    nginx.close()


# -- HTTP ----------------------------------------------------------------------------------------------------


def test_nginx_likes_the_files():
    nginx = Nginx([("127.0.0.1", 5000)], start=False)
    try:
        checked = nginx.check()
        assert checked.returncode == 0, checked.stderr
        # A user that is not root, and a descriptor limit that is lower here, are the machine's.
        complaints = [line for line in checked.stderr.splitlines() if "[warn]" in line and '"user"' not in line]
        assert complaints == []
    finally:
        nginx.close()


def test_page_api_and_compression(front):
    status, headers, body = front.get("/")
    assert status == 200 and b"chat.js" in body and "Content-Encoding" not in headers
    assert "max-age=" in headers["Strict-Transport-Security"]
    status, headers, packed = front.get("/chat.js", headers={"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "gzip", "Accept-Encoding")
    assert gzip.decompress(packed) == (ROOT / "src/web/chat.js").read_bytes()
    known = {"If-None-Match": headers["ETag"], "Accept-Encoding": "gzip"}
    assert front.get("/chat.js", headers=known)[0] == 304
    status, _, body = front.get("/api/rooms")
    assert status == 200 and json.loads(body) == {"rooms": []}
    assert front.get("/ws")[0] == 426
    assert front.get("/api/rooms", method="POST", body=b"x" * 70_000)[0] == 413


def test_plain_http_is_sent_to_https(front):
    status, headers, _ = front.get_plain("/api/rooms?a=b")
    assert (status, headers["Location"]) == (308, f"https://{NAME}/api/rooms?a=b")


def test_the_page_may_come_by_http2(front):
    context = ssl.create_default_context(cafile=front.ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", front.port), DEADLINE) as raw:
        with context.wrap_socket(raw, server_hostname=NAME) as secure:
            assert secure.selected_alpn_protocol() == "h2" and secure.version() == "TLSv1.3"


def test_websocket_address_by_http2_says_what_is_missing(front):
    """chatd's own 426 has headers that HTTP/2 forbids: with them the client sees a broken stream instead."""
    curl = shutil.which("curl")
    if not curl or "HTTP2" not in subprocess.check_output([curl, "--version"], text=True):
        pytest.skip("no curl that speaks HTTP/2")
    done = subprocess.run([curl, "-sS", "-i", "--http2", "--noproxy", "*", "--cacert", front.ca, "--resolve",
                           f"{NAME}:{front.port}:127.0.0.1", f"https://{NAME}:{front.port}/ws"],
                          capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/2 426") and "content-type: application/json" in head.splitlines()
    assert json.loads(body)["error"]["code"] == "upgrade_required"
    # By HTTP/1.1 it is chatd that answers.
    status, headers, _ = front.get("/ws")
    assert (status, headers["Upgrade"]) == (426, "websocket")


def test_another_name_gets_no_certificate(front):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", front.port), DEADLINE) as raw:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="other.example.com")


@pytest.mark.parametrize("path", ["/metrics", "/alerts", "/health", "/health/live", "/health/ready"])
def test_what_is_for_the_operator_is_not_for_the_world(front, path):
    assert front.get(path, source=OUTSIDE)[0] == 403
    assert front.get(path)[0] in (200, 404)  # chatd's own answer


class Recorder(http.server.BaseHTTPRequestHandler):
    """Stands where chatd would and keeps what nginx sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.heads.append(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def recorder():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.heads = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    nginx = Nginx([server.server_address])
    yield nginx, server.heads
    nginx.close()
    server.shutdown()
    server.server_close()


FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Real-IP": "6.6.6.6",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "evil.example.com",
    "Forwarded": "for=6.6.6.6",
    "Upgrade": "h2c",
    "Connection": "upgrade",
}


@pytest.mark.parametrize("path", ["/", "/ws", "/api/rooms"])
def test_what_a_client_claims_about_itself_is_replaced(recorder, path):
    nginx, heads = recorder
    assert nginx.get(path, headers=FORGED, source=OUTSIDE)[0] == 200
    (head,) = heads
    assert head.get_all("X-Forwarded-For") == [OUTSIDE] and head.get_all("X-Real-IP") == [OUTSIDE]
    assert head.get_all("X-Forwarded-Proto") == ["https"] and head.get_all("X-Forwarded-Host") == [NAME]
    assert head.get_all("Host") == [NAME]
    assert "Forwarded" not in head and "Upgrade" not in head
    assert "6.6.6.6" not in str(head) and "evil" not in str(head)


# -- WebSockets ----------------------------------------------------------------------------------------------


async def test_one_address_gets_fifty_connections(front, people):
    async def connect(source):
        client = people.new(server=front, source=source)
        return await client.connect(hello=False)

    for _ in range(50):
        await connect(OUTSIDE)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(OUTSIDE)
    people.all.pop()  # it never was one
    assert refused.value.response.status_code == 429
    await connect("127.0.0.78")
    # A place is free again when its holder has gone.
    await people.all[0].close()

    async def let_in():
        try:
            return await connect(OUTSIDE)
        except websockets.InvalidStatus:
            people.all.pop()

    await eventually(let_in, "the place is given away")


async def test_a_token_in_the_address_is_in_no_log(chatd):
    server = chatd(workers=1)
    nginx = Nginx(pairs([server]))
    try:
        options = {**nginx.ws_options, "proxy": None, "subprotocols": [SUBPROTOCOL]}
        connection = await websockets.connect(f"{nginx.ws_url}?token={TOKEN}", **options)
        server.kill_all()
        await asyncio.wait_for(connection.wait_closed(), DEADLINE)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{nginx.ws_url}?token={TOKEN}", **options)
        assert refused.value.response.status_code == 503
        assert json.loads(refused.value.response.body)["error"]["code"] == "unavailable"
        nginx.stop()  # writes what is in its buffer
        logs = nginx.all_logs()
        assert TOKEN not in logs
        lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
        assert sorted((line["path"], line["status"]) for line in lines) == [("/ws", 101), ("/ws", 503)]
    finally:
        nginx.close()


class PageClient(CrowdClient):
    """Comes back as the page does: when `reconnect` says, else after a jittered, doubling pause."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.told = None  # when `reconnect` said
        self.failed = []  # tries that were not let in
        self.returns = 0
        self.leaving = False
        self._back = None

    def _take(self, event):
        if event.get("type") == "reconnect":
            self.told = asyncio.get_running_loop().time() + event["after_ms"] / 1000
        super()._take(event)

    async def _read(self, ws, ended):
        await super()._read(ws, ended)
        if ended is self.ended and self.welcome and not self.leaving:
            self._back = asyncio.create_task(self.reconnect())

    async def reconnect(self):
        async with self._reconnecting:
            if await self._alive():
                return
            loop, attempt = asyncio.get_running_loop(), 0
            while True:
                pause = random.random() * min(BACKOFF_CAP, BACKOFF_BASE * 2**attempt)
                if self.told is not None:
                    pause = max(0, self.told - loop.time())
                self.told = None
                attempt += 1
                await asyncio.sleep(pause)
                try:
                    await self.connect()
                    for room, view in list(self.rooms.items()):
                        await self.rejoin(room, view)
                    self.returns += 1
                    return
                except (OSError, Lost, Refused, websockets.WebSocketException, asyncio.TimeoutError) as error:
                    self.failed.append(error)
                    if not self.ended.is_set():
                        self.abort()
                        await self.ended.wait()


class Load(Crowd):
    """Sends until it is told to stop."""

    make = PageClient
    PAUSE = 0.1  # of each sender between two messages: a load that two cores carry, not a measurement

    def __init__(self, front, people, sources, **options):
        super().__init__([front], people, messages=0, at_once=1, **options)
        self.sources = sources  # addresses of clients
        self.stopping = asyncio.Event()

    def options(self, i):
        return {"source": self.sources[i % len(self.sources)]}

    async def _send(self, i, client, part):
        room = self.room(i)
        n = 0
        while not self.stopping.is_set():
            key = f"{client.user}-{n}"
            ack = await client.deliver(room, f"message {n} of {client.user}", key)
            known = self.acks.setdefault((room, client.user, key), ack["seq"])
            if known != ack["seq"]:
                self.changed.append((key, known, ack["seq"]))
            n += 1
            await asyncio.sleep(self.PAUSE)

    async def more(self, count):
        """Until that many more messages have their ack."""
        wanted = len(self.acks) + count
        await eventually(lambda: len(self.acks) >= wanted, f"{wanted} messages are sent", 60)

    async def stop(self, running):
        self.stopping.set()
        await asyncio.wait_for(running, 60)
        self.messages = len(self.acks)
        for client in self.clients:
            client.leaving = True


class Loopback:
    """All on this host, told apart by ports."""

    clients = [f"127.0.1.{i}" for i in range(1, 9)]
    outgoing = [f"127.0.0.{i}" for i in range(1, 9)]  # of nginx, as shipped

    def servers(self, fleet, redis, mongo, env):
        return fleet(servers=2, workers=2, redis=redis, mongo=mongo, env=env)

    def front(self, servers):
        return Nginx(pairs(servers))

    def kill(self, server):
        server.kill_all()

    def start(self, server):
        server.start()

    def close(self):
        pass


class Hosts:
    """nginx and each server in a network namespace, with addresses of their own."""

    def __init__(self):
        self.spaces = Namespaces({"nginx": 9, "one": 1, "two": 1}, here=9)
        self.clients = self.spaces.here[1:]
        self.outgoing = self.spaces.of["nginx"][1:]
        self.proxies = []

    def servers(self, fleet, redis, mongo, env):
        # Redis and MongoDB listen on 127.0.0.1, which is another one in each namespace.
        self.proxies += [Proxy(redis, self.spaces.here[0]), Proxy(mongo, self.spaces.here[0])]
        to_redis, to_mongo = self.proxies
        here = self.spaces.here[0]
        env = {
            **env,
            "REDIS": f"redis://{here}:{to_redis.port}",
            "MONGODB_URI": mongo.uri_through(to_mongo).replace("127.0.0.1", here),
        }
        self.names = {}
        for name in ("one", "two"):
            where = {"env": {**env, "HOST": self.spaces.of[name][0]}, "prefix": self.spaces.prefix(name)}
            (server,) = fleet(servers=1, workers=2, **where)
            self.names[server] = name
        return list(self.names)

    def front(self, servers):
        host = self.spaces.of["nginx"][0]
        self.nginx = Nginx(pairs(servers), host=host, sources=self.outgoing, prefix=self.spaces.prefix("nginx"))
        return self.nginx

    def kill(self, server):
        """Its host goes as well: who tries to connect gets no answer. Before that nginx has heard that its
        connections ended; of a host that is just gone clients would hear by their own pings."""
        server.kill_all()
        table = Path(f"/proc/{self.nginx.process.pid}/net/tcp")
        packed = socket.inet_aton(server.host)[::-1].hex().upper()
        until(lambda: f" {packed}:{server.port:04X} 01 " not in table.read_text(), "nginx knows")
        self.spaces.unplug(self.names[server])

    def start(self, server):
        self.spaces.plug(self.names[server])
        server.start()

    def close(self):
        for proxy in self.proxies:
            proxy.close()
        self.spaces.close()


@pytest.fixture(params=[Loopback, Hosts], ids=["ports", "namespaces"])
def place(request, backends):
    place = request.param()
    yield place
    place.close()


def peers(server):
    """How many connections come to a server from which address."""
    return Counter(host for host, _ in server._socket_inodes())


def total(load, what):
    return sum(getattr(client, what) for client in load.clients)


@pytest.mark.timeout(240)
async def test_a_server_is_killed_and_another_drained_under_load(place, fleet, people, redis, mongo):
    killed, drained = place.servers(fleet, redis, mongo, {"DRAIN_TIMEOUT": "2s"})
    nginx = place.front([killed, drained])
    try:
        load = Load(nginx, people, place.clients, clients=32, rooms=8)
        await load.enter()
        ways = [peers(server) for server in (killed, drained)]
        assert all(sum(way.values()) >= 10 for way in ways), f"clients are shared out: {ways}"
        used = set().union(*ways)
        assert used <= set(place.outgoing) and len(used) >= 5, f"nginx goes out by {used}"

        running = asyncio.create_task(load.run())
        await load.more(120)
        on_it = sum(peers(killed).values())
        await asyncio.to_thread(place.kill, killed)
        await eventually(lambda: total(load, "returns") >= on_it, "those of the killed server are back")
        await load.more(120)
        await asyncio.to_thread(place.start, killed)
        await load.more(120)
        assert await asyncio.to_thread(drained.stop) == 0
        await eventually(
            lambda: total(load, "returns") >= on_it + load.count, "those of the drained server are back"
        )
        await asyncio.to_thread(drained.start)
        await load.more(120)
        await load.stop(running)
        await load.check(mongo.db)
        # Back with the first try of its backoff: whoever comes, nginx finds a server that lives.
        assert [error for client in load.clients for error in client.failed] == []
        assert total(load, "disconnects") == on_it + load.count
        assert "bind() failed" not in nginx.all_logs()
    finally:
        nginx.close()
