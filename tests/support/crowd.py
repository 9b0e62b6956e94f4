"""Many clients on many servers, each sending its share until all have their acks; and what must be so afterwards.

Clients behave as src/PROTOCOL.md asks: they retry by key, come back with `since`, and a number other than the last + 1
makes them join again with `since`. A message that is shown under two numbers after a failover is dropped by (user, key).
"""

import asyncio
from collections import Counter

from support.client import ChatClient, Lost, Refused, RoomView, eventually


class HealingView(RoomView):
    """Takes nothing while a gap is being closed: the `joined` that closes it has what comes meanwhile."""

    def __init__(self, heal):
        super().__init__()
        self.heal = heal
        self.healing = False
        self.jumps = 0

    def take(self, message):
        if self.healing:
            return
        if self.last and message["seq"] > self.last + 1:
            self.healing = True
            self.jumps += 1
            self.heal()
            return
        super().take(message)

    def take_joined(self, answer, since):
        self.healing = False
        super().take_joined(answer, since)


class CrowdClient(ChatClient):
    async def enter(self, room):
        self.rooms[room] = HealingView(lambda: self._healers.append(asyncio.create_task(self._heal(room))))
        await self.join(room)

    def __init__(self, *args, **options):
        super().__init__(*args, quiet=True, **options)
        self._healers = []
        self.disconnects = 0  # connections that ended

    async def _read(self, ws, ended):
        await super()._read(ws, ended)
        self.disconnects += 1

    async def _heal(self, room):
        view = self.rooms[room]
        while view.healing:
            try:
                await self.rejoin(room, view)
            except Refused as refusal:
                await asyncio.sleep(refusal.answer.get("retry_ms", 100) / 1000)
            except Lost:
                return  # reconnect() joins again


class Crowd:
    """`clients` people over the servers in turn, in `rooms` rooms, sending `messages` in all."""

    make = CrowdClient  # what a client is

    def __init__(self, servers, people, clients=400, rooms=50, messages=20_000, at_once=4):
        self.servers, self.people = servers, people
        self.count, self.rooms, self.messages, self.at_once = clients, rooms, messages, at_once
        self.each = messages // clients
        self.acks = {}  # (room, user, key) -> seq
        self.changed = []  # acks that gave another number the second time
        self.clients = []

    def room(self, i):
        # Neighbours are on different servers, so each room has members on all.
        return f"room{i // len(self.servers) % self.rooms}"

    def options(self, i):
        """Of the client with that number."""
        return {}

    async def enter(self):
        for i in range(self.count):
            server = self.servers[i % len(self.servers)]
            client = self.make(server, f"user{i}", **self.options(i))
            self.people.all.append(client)
            self.clients.append(client)
        for start in range(0, self.count, 20):
            await asyncio.gather(*(client.connect() for client in self.clients[start : start + 20]))
        await asyncio.gather(*(client.enter(self.room(i)) for i, client in enumerate(self.clients)))

    async def run(self):
        await asyncio.gather(
            *(
                self._send(i, client, part)
                for i, client in enumerate(self.clients)
                for part in range(self.at_once)
            )
        )

    async def _send(self, i, client, part):
        room = self.room(i)
        for n in range(part, self.each, self.at_once):
            key = f"{client.user}-{n}"
            ack = await client.deliver(room, f"message {n} of {client.user}", key)
            known = self.acks.setdefault((room, client.user, key), ack["seq"])
            if known != ack["seq"]:
                self.changed.append((key, known, ack["seq"]))

    async def sent(self, part, deadline=120):
        """Until that part of all messages has its ack."""
        await eventually(lambda: len(self.acks) >= self.messages * part, f"{part:.0%} is sent", deadline)

    def keys_of(self, room):
        return {(user, key) for r, user, key in self.acks if r == room}

    async def check(self, database, failover=False):
        """Everybody has everything once, in order, under the same numbers; the store has exactly that.

        After a failover numbers may jump and a message may be shown again under another number."""
        assert len(self.acks) == self.messages and not self.changed
        by_number = {}  # (room, seq) -> (user, key)
        for i, client in enumerate(self.clients):
            room = self.room(i)
            view, wanted = client.rooms[room], self.keys_of(room)
            await eventually(
                lambda: not view.healing and {(u, k) for _, u, k in view.seen} >= wanted,
                f"{client.user} has every message",
                60,
            )
            assert not view.disorder, view.disorder[:5]
            twice = [seq for seq, n in Counter(view.numbers()).items() if n > 1]
            assert not twice, f"{client.user} was shown numbers twice: {twice[:5]}"
            assert {(u, k) for _, u, k in view.seen} == wanted, "nothing that nobody sent"
            if not failover:
                assert len(view.seen) == len(wanted) and not view.jumps
            for seq, user, key in view.seen:
                assert by_number.setdefault((room, seq), (user, key)) == (user, key), "one number, one message"
        self.check_store(database)

    def check_connections(self):
        """Nobody had to come back: each client is still on its first connection."""
        made = sum(server.metrics()["connections_opened_total"] for server in self.servers)
        assert made == self.count and not any(client.disconnects for client in self.clients)

    def check_store(self, database):
        stored = list(database.messages.find({}, {"_id": 0, "room": 1, "user": 1, "key": 1, "seq": 1, "time": 1}))
        found = Counter((m["room"], m["user"], m["key"]) for m in stored)
        assert [key for key, n in found.items() if n > 1] == [], "no message twice"
        assert {(m["room"], m["user"], m["key"]): m["seq"] for m in stored} == self.acks
        times = {}
        for m in sorted(stored, key=lambda m: (m["room"], m["seq"])):
            assert times.get(m["room"], m["time"]) <= m["time"], "time never falls in a room"
            times[m["room"]] = m["time"]
