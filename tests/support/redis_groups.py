"""Redis as several processes: Sentinel (a master, two replicas, three sentinels) and Cluster (3 + 3)."""

import re

from support.chatd import until
from support.servers import Port, Redis, redis_client

SLOTS = 16384

# A replica asks to be synchronised at once, and a dead link is noticed within seconds.
REPLICATION = ("repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5")


class Group:
    """Several servers that are one Redis. `servers` holds all of them, `nodes` those with data."""

    password = user = None

    @property
    def env(self):
        return {"REDIS": self.url}

    @property
    def alive(self):
        return [node for node in self.nodes if node.running and not node.frozen]

    def masters(self):
        raise NotImplementedError

    def flush(self):
        for node in self.masters():
            node.flush()

    def close(self):
        for server in self.servers:
            server.close()


def role(node):
    """Role and state of the link to the master; None when it doesn't answer."""
    try:
        with node.client(socket_timeout=1) as client:
            found = client.info("replication")
    except (redis_client.ConnectionError, redis_client.TimeoutError):
        return None, None
    return found["role"], found.get("master_link_status")


def is_replica(node):
    return role(node) == ("slave", "up")


class SentinelProcess(Redis):
    """One redis-sentinel. Its file holds what it learnt, so kill and start keep that."""

    def __init__(self, master, name, quorum):
        super().__init__(start=False)
        self.name, self.group = "sentinel", name
        self.conf_path.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.data_dir}\n"
            f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}\n"
            f"sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 3000\n"
            f"sentinel parallel-syncs {name} 2\n"
        )
        self.start()

    def command(self):
        return ["redis-sentinel", self.conf_path]

    def wait_ready(self):
        super().wait_ready()
        # Sentinels talk to each other every 2 s and look for replicas every 10 s. The file doesn't keep this.
        # The leader of a failover asks the promoted server for its role once a second whatever is set here, and
        # the others undo a promotion that they heard nothing of for 4 publish periods: that has to be longer.
        periods = {"PUBLISH-PERIOD": 1000, "INFO-PERIOD": 300, "PING-PERIOD": 200, "ASK-PERIOD": 200}
        with self.client() as client:
            client.execute_command("SENTINEL", "DEBUG", *(word for pair in periods.items() for word in pair))
        return self

    def sees_all_well(self, master, replicas):
        """Knows two other sentinels and that many replicas, each of which said it follows this master.
        A sentinel that still takes a returned server for a master would undo its promotion in a failover."""
        with self.client() as client:
            others = client.sentinel_master(self.group)["num-other-sentinels"]
            known = client.sentinel_slaves(self.group)
        seen = [(one["flags"], one["role-reported"], int(one["master-port"])) for one in known]
        return int(others) == 2 and seen == [("slave", "slave", master.port)] * replicas


class Sentinel(Group):
    """A master, two replicas and three sentinels, two of which have to agree that the master is down."""

    def __init__(self, config=(), save=False):
        self.master_name = "mymaster"
        self.servers = self.nodes = []
        self.sentinels = []
        try:
            first = self._node(config, save)
            for _ in range(2):
                self._node((f"replicaof 127.0.0.1 {first.port}", *config), save)
            until(lambda: all(is_replica(node) for node in self.nodes[1:]), "both replicas follow the master")
            self.sentinels = [SentinelProcess(first, self.master_name, 2) for _ in range(3)]
            self.servers = self.nodes + self.sentinels
            self.wait_ok()
        except BaseException:
            self.close()
            raise

    def _node(self, config, save):
        self.nodes.append(Redis(config=(*REPLICATION, *config), save=save))
        return self.nodes[-1]

    @property
    def url(self):
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{addresses}/{self.master_name}"

    def believed(self):
        """The port of the master, as every sentinel that answers says it."""
        found = set()
        for sentinel in self.sentinels:
            if sentinel.running and not sentinel.frozen:
                with sentinel.client() as client:
                    found.add(int(client.sentinel_get_master_addr_by_name(self.master_name)[1]))
        return found

    def master(self):
        """The server that all sentinels call the master and that is one; None while they disagree."""
        ports = self.believed()
        for node in self.alive:
            if ports == {node.port} and role(node)[0] == "master":
                return node
        return None

    def masters(self):
        return [until(self.master, "the sentinels agree on a master")]

    def replicas(self):
        return [node for node in self.alive if is_replica(node)]

    def kill_master(self):
        """kill -9 for the master, which is handed back; the sentinels notice after a second."""
        master = self.masters()[0]
        master.kill()
        return master

    def failover(self):
        """Asks for a planned failover; returns the old master."""
        old = self.masters()[0]
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", self.master_name)
        return old

    def wait_failover(self, old):
        """Until another server than `old` is the master and the rest follow it; returns the new master."""

        def moved():
            master = self.master()
            return master if master not in (None, old) else None

        new = until(moved, "a replica was made the master")
        until(lambda: len(self.replicas()) >= len(self.alive) - 1, "the others follow the new master")
        return new

    def wait_ok(self):
        """Until a master serves, every running server follows it, and each sentinel knows all of them."""

        def complete():
            master = self.master()
            if not master or len(self.replicas()) != len(self.nodes) - 1:
                return False
            return all(sentinel.sees_all_well(master, len(self.nodes) - 1) for sentinel in self.sentinels)

        until(complete, "Sentinel is complete")

    def heal(self):
        """All six processes run again and know their place."""
        for server in self.servers:
            server.heal()
        self.wait_ok()


class ClusterNode(Redis):
    def __init__(self, config, save):
        self.bus = Port()
        super().__init__(
            config=(
                *REPLICATION, "cluster-enabled yes", f"cluster-port {self.bus.number}",
                "cluster-announce-ip 127.0.0.1", "cluster-node-timeout 1500",
                "cluster-require-full-coverage no", "cluster-replica-validity-factor 0",
                "cluster-allow-replica-migration no", *config,
            ),
            save=save,
        )
        self.id = self.ask("MYID")

    def ask(self, *args):
        """The answer to one CLUSTER command."""
        with self.client() as client:
            # Some commands have parsers of their own in the library, others not: take what came.
            client.response_callbacks.clear()
            return client.execute_command("CLUSTER", *args)

    def table(self):
        """CLUSTER NODES as {id: fields}."""
        return {line.split()[0]: line.split() for line in self.ask("NODES").splitlines()}

    def sees_all_well(self):
        """Every slot is served and no node is missing, as far as this one knows."""
        state = dict(line.split(":", 1) for line in self.ask("INFO").split("\r\n") if ":" in line)
        served = state["cluster_state"] == "ok" and int(state["cluster_slots_ok"]) == SLOTS
        flags = {fields[2] for fields in self.table().values()}
        return served and not any(re.search("fail|handshake|noaddr", found) for found in flags)

    def close(self):
        super().close()
        self.bus.close()


class Cluster(Group):
    """Three masters with a replica each; a third of the slots on every master."""

    def __init__(self, config=(), save=False):
        self.servers = self.nodes = []
        try:
            for _ in range(6):
                self.nodes.append(ClusterNode(config, save))
            self._join()
            self.wait_ok()
        except BaseException:
            self.close()
            raise

    def _join(self):
        for number, node in enumerate(self.nodes):
            node.ask("SET-CONFIG-EPOCH", number + 1)
            if number < 3:
                node.ask("ADDSLOTSRANGE", number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1)
        first = self.nodes[0]
        for node in self.nodes[1:]:
            first.ask("MEET", "127.0.0.1", node.port, node.bus.number)
        ids = {node.id for node in self.nodes}
        until(lambda: all(set(node.table()) == ids for node in self.nodes), "the nodes know each other")
        for master, replica in zip(self.nodes[:3], self.nodes[3:]):
            replica.ask("REPLICATE", master.id)

    @property
    def url(self):
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node(self, id):
        return next(node for node in self.nodes if node.id == id)

    def masters(self):
        """The nodes that are masters, by their own account."""
        return [node for node in self.alive if role(node)[0] == "master"]

    def replica_of(self, master):
        """The node that follows this master."""
        for node in self.alive:
            fields = node.table()[node.id]
            if "slave" in fields[2] and fields[3] == master.id:
                return node
        return None

    def slot_of(self, key):
        return int(self.alive[0].ask("KEYSLOT", key))

    def owner(self, slot, asked=None):
        """Who serves the slot, as one node sees it: the node, None when nobody does."""
        for first, last, (_, port, *_), *_ in (asked or self.alive[0]).ask("SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == int(port))
        return None

    def master_of(self, slot):
        """The node that serves the slot and on which all running nodes agree."""

        def agreed():
            owners = {self.owner(slot, node) for node in self.alive}
            owner = owners.pop() if len(owners) == 1 else None
            return owner if owner in self.alive else None

        return until(agreed, f"the nodes agree on who has slot {slot}")

    def kill_master(self, slot):
        """kill -9 for the master of this slot, which is handed back; its replica takes over within 3 s."""
        master = self.master_of(slot)
        master.kill()
        return master

    def start_move(self, slot, to):
        """From now on a key of the slot that is not at the old node (any more) is answered with ASK."""
        source = self.master_of(slot)
        to.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", to.id)
        return source

    def move_keys(self, slot, source, to, count=None):
        """Moves the slot's keys, or `count` of them. Returns how many went."""
        moved = 0
        with source.client(decode_responses=False) as client:
            while count is None or moved < count:
                batch = 100 if count is None else min(100, count - moved)
                keys = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, batch)
                if not keys:
                    break
                client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
                moved += len(keys)
        return moved

    def finish_move(self, slot, source, to):
        """The slot is the new node's; who asks the old one is answered with MOVED."""
        # New owner first: a slot that nobody claims would be lost if the old one died in between.
        others = [node for node in self.masters() if node not in (source, to)]
        for node in (to, source, *others):
            node.ask("SETSLOT", slot, "NODE", to.id)

    def move_slot(self, slot, to):
        """Moves the slot with its keys, as `redis-cli --cluster reshard` does, while clients are at work:
        keys that come into being meanwhile do so at the new node, by ASK. Returns how many were moved."""
        source = self.start_move(slot, to)
        moved = self.move_keys(slot, source, to)
        self.finish_move(slot, source, to)
        until(lambda: self.master_of(slot) is to, f"slot {slot} is where it was moved to")
        return moved

    def wait_failover(self, old, slot):
        """Until another node than `old` serves the slot for all running nodes; returns that node."""

        def moved():
            owner = self.master_of(slot)
            return owner if owner is not old and role(owner)[0] == "master" else None

        return until(moved, f"a replica took over slot {slot}")

    def wait_ok(self):
        """Until every node runs, sees the others and all slots served, and each master has its replica."""

        def complete():
            if len(self.alive) != len(self.nodes):
                return False
            masters = self.masters()
            followers = [node for node in self.nodes if is_replica(node)]
            if len(masters) != 3 or len(followers) != 3 or not all(self.replica_of(one) for one in masters):
                return False
            return all(node.sees_all_well() for node in self.nodes)

        until(complete, "the cluster is complete")

    def heal(self):
        for node in self.nodes:
            node.heal()
        self.wait_ok()
