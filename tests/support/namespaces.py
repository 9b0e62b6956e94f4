"""Hosts for tests: network namespaces on a bridge of their own. The tests themselves stand on that bridge too."""

import os
import subprocess

import pytest

from support.chatd import DEADLINE


class Namespaces:
    """`addresses` names the hosts and says how many addresses each has: {"nginx": 8, "a": 1}."""

    def __init__(self, addresses, here=1):
        # 198.18.0.0/15 is set aside for tests of network devices (RFC 2544): nobody's network.
        self._net = f"198.18.{os.getpid() % 256}"
        self._name = f"ct{os.getpid() % 100_000}"
        self._next = 1
        self._made = []
        self._link = {}
        self.of = {}
        try:
            self._ip("link", "add", self._name, "type", "bridge")
            self._made.append(("link", "delete", self._name))
            self._ip("link", "set", self._name, "up")
            self.here = self._give(here, self._name)
            for name, count in addresses.items():
                self._add(name, count)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"network namespaces can't be made here: {said.strip()}")

    def _add(self, name, count):
        space, link = f"{self._name}-{name}", f"{self._name}{len(self.of)}"
        self._ip("netns", "add", space)
        self._made.append(("netns", "delete", space))
        self._link[name] = link
        self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._ip("link", "set", link, "master", self._name, "up")
        self.of[name] = self._give(count, "eth0", "-n", space)
        self._ip("-n", space, "link", "set", "lo", "up")
        self._ip("-n", space, "link", "set", "eth0", "up")

    def _give(self, count, link, *where):
        found = []
        for _ in range(count):
            found.append(f"{self._net}.{self._next}")
            self._ip(*where, "address", "add", f"{found[-1]}/24", "dev", link)
            self._next += 1
        return found

    def _ip(self, *args):
        subprocess.run(["ip", *args], check=True, capture_output=True, text=True, timeout=DEADLINE)

    def unplug(self, name):
        """That host answers nobody any more."""
        self._ip("link", "set", self._link[name], "down")

    def plug(self, name):
        self._ip("link", "set", self._link[name], "up")

    def prefix(self, name):
        """What runs a command in that host."""
        return ["ip", "netns", "exec", f"{self._name}-{name}"]

    def close(self):
        for undo in reversed(self._made):
            self._ip(*undo)
