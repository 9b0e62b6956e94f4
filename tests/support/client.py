"""A chat client for tests, on the `websockets` library: commands answered by id, events waited for, and the
behaviour that PROTOCOL.md asks of a good client: join again with `since`, send again with the same key.
"""

import asyncio
import inspect
import itertools
import json

import websockets
from websockets.asyncio.client import connect as ws_connect

from support.chatd import DEADLINE

SUBPROTOCOL = "chatd.v1"


class Refused(Exception):
    """The server answered with `error`."""

    def __init__(self, answer):
        super().__init__(f"{answer.get('code')}: {answer.get('message')}")
        self.answer = answer
        self.code = answer.get("code")


class Lost(Exception):
    """The connection ended before the answer came."""


class RoomView:
    """What one member has seen of one room, over all its connections."""

    def __init__(self):
        self.last = 0  # the number to resume from
        self.seen = []  # (seq, user, key) as they arrived
        self.disorder = []  # numbers that did not rise
        self.gaps = []  # (last, next) where the numbers jumped
        self.joined = []  # every `joined` without its messages

    def take(self, message):
        seq = message["seq"]
        if seq <= self.last:
            self.disorder.append((self.last, seq))
        elif self.last and seq != self.last + 1:
            self.gaps.append((self.last, seq))
        self.last = max(self.last, seq)
        self.seen.append((seq, message["user"], message.get("key")))

    def take_joined(self, answer, since):
        """`joined` replaces what the client thought was the last number; the gaps it closes are no gaps."""
        self.joined.append({k: v for k, v in answer.items() if k != "messages"})
        for message in answer["messages"]:
            if message["seq"] <= (since or 0):
                self.disorder.append((since, message["seq"]))
            self.seen.append((message["seq"], message["user"], message.get("key")))
        numbers = [message["seq"] for message in answer["messages"]]
        if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > answer["seq"]):
            self.disorder.append(numbers)
        self.last = answer["seq"]

    def fill(self, messages):
        """Older messages, from history pages."""
        self.seen.extend((message["seq"], message["user"], message.get("key")) for message in messages)

    def numbers(self):
        return [seq for seq, _, _ in self.seen]

    def keys(self):
        return [key for _, _, key in self.seen]


class ChatClient:
    """One user's client. `quiet` keeps messages only in `rooms`, not as events: for load."""

    _serial = itertools.count(1)

    def __init__(self, server, user=None, *, quiet=False, source=None):
        self.server = server
        self.user = user
        self.quiet = quiet
        self.source = source
        self.ws = None
        self.welcome = None
        self.rooms = {}  # room -> RoomView
        self.events = []  # what nobody has waited for yet
        self.unacked = {}  # key -> (room, text)
        self.close_code = None
        self.ended = asyncio.Event()
        self._ids = itertools.count(1)
        self._answers = {}  # id -> (future, command)
        self._waiters = []  # (type, fields, future)
        self._reader = None
        self._keys = 0
        self._reconnecting = asyncio.Lock()

    # -- connection ------------------------------------------------------------------------------------------

    async def connect(self, hello=True, **hello_fields):
        """Opens the connection; says hello unless told not to."""
        extra = dict(getattr(self.server, "ws_options", {}))  # nginx has some: TLS
        if self.source:
            extra["local_addr"] = (self.source, 0)
        self.ws = await asyncio.wait_for(
            ws_connect(
                self.server.ws_url,
                subprotocols=[SUBPROTOCOL],
                compression=None,
                proxy=None,
                max_size=None,
                ping_interval=None,
                open_timeout=DEADLINE,
                close_timeout=2,
                max_queue=None,
                **extra,
            ),
            DEADLINE,
        )
        self.ended = asyncio.Event()
        self.close_code = None
        self._reader = asyncio.create_task(self._read(self.ws, self.ended))
        if hello:
            self.welcome = await self.command("hello", user=self.user, **hello_fields)
        return self

    @property
    def address(self):
        return self.ws.local_address[:2]

    @property
    def worker(self):
        """Process id of the worker that serves this client."""
        return self.server.worker_of(self.address[1], self.address[0])

    async def close(self):
        """Leaves with close code 1000 and waits for the server's answer."""
        if self.ws is not None:
            await self.ws.close()
            await self.ended.wait()

    def abort(self):
        """The cable is cut: no close frame."""
        self.ws.transport.abort()

    async def wait_ended(self):
        """Until the connection is over; the server's close code (1006: none was sent)."""
        await asyncio.wait_for(self.ended.wait(), DEADLINE)
        return self.close_code

    async def _read(self, ws, ended):
        try:
            async for raw in ws:
                assert isinstance(raw, str), "the server sent a binary message"
                self._take(json.loads(raw))
        except websockets.ConnectionClosed:
            pass
        finally:
            # A client that has reconnected meanwhile has a new `ended`, and its answers are not ours to fail.
            ended.set()
            if ended is self.ended:
                self.close_code = ws.close_code
                waiting = [future for future, _ in self._answers.values()] + [f for _, _, f in self._waiters]
                self._answers, self._waiters = {}, []
                for future in waiting:
                    if not future.done():
                        future.set_exception(Lost(f"{self.user}: connection ended with {ws.close_code}"))
                        future.exception()  # looked at: a sender that was cancelled leaves no noise

    def _take(self, event):
        kind = event.get("type")
        if kind == "message":
            view = self.rooms.get(event["room"])
            if view is not None:
                view.take(event)
            if self.quiet:
                return
        answer_to = event.get("id")
        if isinstance(answer_to, (int, float, str)) and answer_to in self._answers:
            future, command = self._answers.pop(answer_to)
            if kind == "joined":
                self.rooms.setdefault(event["room"], RoomView()).take_joined(event, command.get("since"))
            elif kind == "ack":
                self.unacked.pop(command.get("key"), None)
            if not future.done():
                future.set_result(event)
            return
        for waiter in self._waiters:
            if matches(event, waiter[0], waiter[1]) and not waiter[2].done():
                self._waiters.remove(waiter)
                waiter[2].set_result(event)
                return
        self.events.append(event)

    # -- commands --------------------------------------------------------------------------------------------

    async def send_raw(self, text):
        await self.ws.send(text)

    async def send(self, type, **fields):
        """A command without an id."""
        await self.ws.send(json.dumps({"type": type, **fields}, ensure_ascii=False))

    async def start(self, type, **fields):
        """Sends a command with an id; the future brings the answer, errors included."""
        command = {"type": type, "id": fields.pop("id", None), **fields}
        if command["id"] is None:
            command["id"] = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        if self.ended.is_set():
            raise Lost(f"{self.user}: not connected")
        self._answers[command["id"]] = (future, command)
        try:
            await self.ws.send(json.dumps(command, ensure_ascii=False))
        except websockets.ConnectionClosed as error:
            self._answers.pop(command["id"], None)
            raise Lost(str(error)) from error
        return future

    async def command(self, type, **fields):
        """Sends a command and returns its answer; an `error` is raised as Refused."""
        answer = await asyncio.wait_for(await self.start(type, **fields), DEADLINE)
        if answer["type"] == "error":
            raise Refused(answer)
        return answer

    async def refused(self, codes, type, **fields):
        """The command must be refused with this code (or one of these); returns the error."""
        codes = (codes,) if isinstance(codes, str) else codes
        answer = await asyncio.wait_for(await self.start(type, **fields), DEADLINE)
        assert (
            answer["type"] == "error" and answer["code"] in codes
        ), f"{type} {fields!r:.200}: {answer!r:.300}"
        assert isinstance(answer["message"], str) and answer["message"]
        return answer

    async def join(self, room, **fields):
        return await self.command("join", room=room, **fields)

    def next_key(self):
        self._keys += 1
        return f"{self.user}-{self._keys}"

    async def say(self, room, text, **fields):
        """One message, acknowledged; returns the ack."""
        return await self.command("message", room=room, text=text, **fields)

    async def say_many(self, room, texts, at_once=200):
        """Messages in order, `at_once` on their way together; their acks in the same order."""
        acks = []
        for start in range(0, len(texts), at_once):
            futures = [
                await self.start("message", room=room, text=text) for text in texts[start : start + at_once]
            ]
            for future in futures:
                acks.append(await asyncio.wait_for(future, DEADLINE))
                if acks[-1]["type"] == "error":
                    raise Refused(acks[-1])
        return acks

    async def members(self, room):
        return await self.command("members", room=room)

    async def history(self, room, since=0, limit=100):
        """The whole history above `since`, paged backwards; ascending."""
        found, before = [], None
        while True:
            page = await self.command(
                "history", room=room, limit=limit, **({"before": before} if before else {})
            )
            numbers = [message["seq"] for message in page["messages"]]
            assert numbers == sorted(set(numbers)) and len(numbers) <= limit
            assert all(number < before for number in numbers) if before else True
            assert numbers or not page["more"], "an empty page that says more"
            found = [message for message in page["messages"] if message["seq"] > since] + found
            if not page["more"] or (numbers and numbers[0] <= since):
                return found
            before = numbers[0]

    # -- events ----------------------------------------------------------------------------------------------

    async def expect(self, type, **fields):
        """The next event, old or to come, with these members; it is used up by that."""
        for event in self.events:
            if matches(event, type, fields):
                self.events.remove(event)
                return event
        if self.ended.is_set():
            raise Lost(f"{self.user}: connection ended with {self.close_code} before {type} {fields}")
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((type, fields, future))
        try:
            return await asyncio.wait_for(future, DEADLINE)
        except asyncio.TimeoutError:
            raise AssertionError(
                f"{self.user} waited in vain for {type} {fields}; has {self.events[-20:]}"
            ) from None

    def seen(self, type, **fields):
        """Events of that kind that are here and not used up."""
        return [event for event in self.events if matches(event, type, fields)]

    # -- a good client ---------------------------------------------------------------------------------------

    async def deliver(self, room, text, key=None):
        """A message that must get through: it is sent again with its key until the ack is here."""
        key = key or self.next_key()
        self.unacked[key] = (room, text)
        tries = 0
        while True:
            again = {"retry": True} if tries else {}
            tries += 1
            try:
                return await self.command("message", room=room, text=text, key=key, **again)
            except Lost:
                await self.reconnect()
            except Refused as refusal:
                if refusal.code not in ("overloaded", "unavailable", "not_joined"):
                    raise
                # not_joined: the retry overtook the join of a reconnect; otherwise the server says when.
                await asyncio.sleep(refusal.answer.get("retry_ms", 10) / 1000)

    async def reconnect(self):
        """Comes back until it is let in, joins its rooms with `since`; several callers share one attempt."""
        async with self._reconnecting:
            if await self._alive():
                return
            end = asyncio.get_running_loop().time() + DEADLINE
            while True:
                try:
                    await self.connect()
                    for room, view in list(self.rooms.items()):
                        await self.rejoin(room, view)
                    return
                except (OSError, Lost, Refused, websockets.WebSocketException, asyncio.TimeoutError):
                    if asyncio.get_running_loop().time() > end:
                        raise
                    self.abort() if self.ws is not None else None
                    await asyncio.sleep(0.05)

    async def _alive(self):
        """Whether the connection answers; one that was cut a moment ago may not have been told yet."""
        try:
            if not self.ended.is_set():
                await asyncio.wait_for(await self.ws.ping(), DEADLINE)
        except websockets.ConnectionClosed:
            await self.ended.wait()
        return not self.ended.is_set()

    async def rejoin(self, room, view):
        since = view.last
        answer = await self.join(room, since=since)
        if not answer["complete"]:
            # It may lack the oldest, and some in its middle that were not stored yet.
            here = {message["seq"] for message in answer["messages"]}
            missed = await self.history(room, since=since)
            view.fill([m for m in missed if m["seq"] <= answer["seq"] and m["seq"] not in here])
        return answer


class Clients:
    """The clients of one test, closed together at its end."""

    def __init__(self, server=None):
        self.server = server
        self.all = []

    def new(self, user=None, **options):
        client = ChatClient(options.pop("server", None) or self.server, user, **options)
        self.all.append(client)
        return client

    async def connect(self, user, **options):
        """Connected and welcomed."""
        return await self.new(user, **options).connect()

    async def member(self, user, *rooms, **options):
        """Connected, welcomed and in these rooms."""
        client = await self.connect(user, **options)
        for room in rooms:
            await client.join(room)
        return client

    async def connect_on(self, worker, user, **options):
        """Connected to this worker (process id). The kernel picks by source port: tries until it picks that."""
        for _ in range(400):
            client = self.new(user, **options)
            await client.connect(hello=False)
            if client.worker == worker:
                client.welcome = await client.command("hello", user=user)
                return client
            await client.close()
            self.all.remove(client)
        raise AssertionError(f"no connection in 400 came to worker {worker}")

    async def spread(self, users, **options):
        """One client per user, placed on the workers in turn."""
        workers = self.server.workers()
        return [
            await self.connect_on(workers[i % len(workers)], user, **options) for i, user in enumerate(users)
        ]

    async def aclose(self):
        for client in self.all:
            if client.ws is not None:
                client.ws.transport.abort()
        await asyncio.gather(*(client.ended.wait() for client in self.all if client.ws is not None))


def matches(event, type, fields):
    return event.get("type") == type and all(event.get(name) == value for name, value in fields.items())


async def eventually(check, why, deadline=None):
    """Calls `check` (plain or async) until it returns something true, which is handed back."""
    loop = asyncio.get_running_loop()
    end = loop.time() + (deadline or DEADLINE)
    while True:
        result = check()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        if loop.time() > end:
            raise AssertionError(f"waited in vain until {why}")
        await asyncio.sleep(0.02)
