"""chatd top against real servers: batch mode, and the screen of a real pseudo terminal."""

import http.server
import os
import re
import socket
import subprocess
import threading
import time

import pexpect
import pyte
import pytest

from support.chatd import DEADLINE, Chatd, binary, clean_env, run_chatd, until

COLUMNS, LINES = 110, 60


@pytest.fixture(scope="module")
def pair():
    """Two servers that most tests here look at."""
    with Chatd(workers=2) as one, Chatd(workers=1) as other:
        yield one, other


def address(server):
    return f"127.0.0.1:{server.port}"


def batch(*args, env=None):
    return run_chatd("top", "-b", "-d", "0.2", *args, env=env)


def blocks(text):
    """The head, then what is said of each server, by its address."""
    head, *servers = text.rstrip("\n").split("\n\n")
    return head, {block.split()[0]: block for block in servers}


def number(text, name):
    """The number behind a name."""
    return float(re.search(rf"(?:^|  ){name} (\d+(?:\.\d+)?)", text, re.M)[1])


class Screen:
    """chatd top on a terminal; what is drawn there is read all the time, as a terminal would."""

    def __init__(self, *args, term="xterm-256color", env=None, lines=LINES, columns=COLUMNS):
        self.child = pexpect.spawn(
            binary(),
            ["top", "-d", "0.2", *args],
            env=clean_env({"TERM": term, "LANG": "C.UTF-8", **(env or {})}),
            dimensions=(lines, columns),
            timeout=DEADLINE,
        )
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def read(self):
        try:
            data = self.child.read_nonblocking(1 << 16, timeout=0.1)
        except pexpect.TIMEOUT:
            return
        self.raw += data
        self.stream.feed(data)

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, check, why):
        """Until what is drawn passes; returns what `check` does."""

        def drawn():
            self.read()
            return check(self.text())

        try:
            return until(drawn, why)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen is:\n{self.text()}") from None

    def press(self, keys, check, why):
        self.child.send(keys)
        return self.wait(check, why)

    def resize(self, lines, columns):
        self.screen.resize(lines, columns)
        self.screen.reset()
        self.child.setwinsize(lines, columns)

    def quit(self):
        self.child.send("q")
        until(self.ended, "q ends it")
        return self.child.exitstatus

    def ended(self):
        try:
            self.read()
        except pexpect.EOF:
            self.child.close()
            return True
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.close(force=True)


def block_of(text, label):
    """The lines of one server on a screen."""
    found = re.search(rf"^{re.escape(label)}  .*?(?=\n\n|\Z)", text, re.M | re.S)
    return found[0] if found else ""


# ---- batch mode ----


def seconds(text):
    """0.82 ms as shown."""
    amount, unit = text.split()
    return float(amount) / (1000 if unit == "ms" else 1)


async def test_its_numbers_are_those_of_metrics(chatd, people, room):
    """A fresh server: what is counted in the interval is everything there is."""
    server = chatd(workers=2)
    members = [await people.member(f"u{i}", room) for i in range(5)]
    started = time.monotonic()
    top = subprocess.Popen(
        [binary(), "top", "-b", "-n", "2", "-d", "2", address(server)],
        env=clean_env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    before = server.metrics()["http_requests_total"]
    asked = iter(range(1, 1 << 30))
    until(
        lambda: server.metrics()["http_requests_total"] - before - next(asked) >= 3, "the first round is over"
    )
    for i in range(100):
        await members[i % 5].say(room, "x" * 100)
    await members[0].refused("unknown_type", "nonsense")
    until(lambda: server.metrics()["deliveries_total"] == 500, "everybody has everything")
    sent = time.monotonic() - started
    whole = server.metrics()
    first, second = (
        blocks(part)[1][address(server)] for part in re.split(r"\n(?=chatd top)", top.communicate()[0])
    )
    took = time.monotonic() - started
    assert top.returncode == 0
    assert number(first, "connections") == whole["connections"] == 5
    assert number(first, "rooms") == whole["rooms"] and number(first, "in rooms") == whole["memberships"] == 5
    assert [line.split()[2] for line in re.findall(r"^ +\d+ +\d+ +\w+ .*", first, re.M)] == ["ready", "ready"]
    pids = {int(line.split()[1]) for line in re.findall(r"^ +\d+ +\d+ +\w+ .*", first, re.M)}
    assert pids == set(server.workers())
    if sent > 1.9:
        pytest.skip("this machine was too slow to send 100 messages within the interval")
    # 100 in at least two seconds and at most all the time there was; rounded to a tenth.
    assert 100 / took - 0.1 <= number(first, "messages") <= 100 / 1.9
    assert number(first, "deliveries") == pytest.approx(5 * number(first, "messages"), abs=1)
    delivery = re.search(r"delivery +([\d.]+ \w+) +([\d.]+ \w+)", first)
    for shown, name in ((delivery[1], "p50"), (delivery[2], "p99")):
        assert seconds(shown) == pytest.approx(whole["delivery_latency_seconds"][name], abs=1e-4)
    assert re.search(r"^  errors 0\.\d+/s: unknown_type 0\.\d+/s$", first, re.M) and "  errors" not in second
    # Nothing happened in the second interval, whatever there was since the start.
    assert re.search(r"delivery +- +-", second) and number(second, "messages") == 0
    assert server.metrics()["delivery_latency_seconds"]["count"] == 500


def test_it_prints_as_often_as_told(pair):
    done = batch("-n", "3", address(pair[0]))
    assert done.returncode == 0 and done.stderr == ""
    assert len(re.findall(r"^chatd top ", done.stdout, re.M)) == 3
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert len(re.findall(r"^chatd top ", run_chatd("top", "-d", "0.2", address(pair[0])).stdout, re.M)) == 1


class Foreign(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"connections": "many"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_each_trouble_has_its_words(pair):
    """One line for each that can't be looked at; the others are shown all the same."""
    silent = socket.create_server(("127.0.0.1", 0))
    closed = socket.create_server(("127.0.0.1", 0))
    closed_port = closed.getsockname()[1]
    closed.close()
    foreign = http.server.HTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=foreign.serve_forever, daemon=True).start()
    wanted = {
        f"127.0.0.1:{silent.getsockname()[1]}": "no answer in time",
        f"127.0.0.1:{closed_port}": "Connection refused",
        f"127.0.0.1:{foreign.server_port}": "not chatd: /metrics is answered with 200",
        "nosuch.invalid:5000": "unknown host",
        f"https://{address(pair[0])}": "SSL",
    }
    try:
        done = batch(*wanted, address(pair[0]))
    finally:
        foreign.shutdown()
        foreign.server_close()
        silent.close()
    head, found = blocks(done.stdout)
    assert done.returncode == 1 and f"servers 1/{len(wanted) + 1}" in head
    for label, words in wanted.items():
        assert re.match(rf"{re.escape(label)}  away for \d+ s: .*{words}", found[label])
    assert "  ready  " in found[address(pair[0])]


@pytest.mark.parametrize(
    "args, words",
    [
        (["-n", "0"], "-n 0: expected a number from 1"),
        (["-d", "3"], "-d 3: expected 0.2, 0.5"),
        (["-y"], "usage: chatd top"),
        (["ftp://a"], "ftp://a: expected HOST"),
    ],
)
def test_wrong_usage_is_named(args, words):
    done = run_chatd("top", *args)
    assert done.returncode == 2 and words in done.stderr and done.stdout == ""


# ---- the screen ----


async def test_connections_come_and_go_on_the_screen(pair, people, room):
    people.server = pair[0]
    with Screen(address(pair[0]), address(pair[1])) as top:
        top.wait(lambda text: len(re.findall("  ready  version ", text)) == 2, "both are ready")
        clients = [await people.member(f"u{i}", room) for i in range(7)]
        top.wait(lambda text: number(block_of(text, address(pair[0])), "connections") == 7, "7 connections")
        top.wait(lambda text: number(text.splitlines()[0], "connections") == 7, "7 on both")
        assert number(block_of(top.text(), address(pair[1])), "connections") == 0
        for client in clients:
            await client.close()
        top.wait(lambda text: number(text.splitlines()[0], "connections") == 0, "nobody is there")
        assert top.quit() == 0
        assert top.raw.rstrip().endswith(b"\x1b[?1l\x1b>"), "the terminal is as it was"


async def test_an_alert_is_shown_while_it_fires(chatd, people):
    server = chatd(workers=1, env={"ALERT_CONNECTIONS": "3 clear 2"})
    with Screen(address(server)) as top:
        top.wait(lambda text: "  ready  " in text and "ALERT" not in text, "it is ready")
        clients = [await people.connect(f"u{i}") for i in range(4)]
        line = top.wait(lambda text: re.search("^  ALERT connections.*", text, re.M), "the alert is there")[0]
        assert "4, threshold 3 connections" in line
        for client in clients:
            await client.close()
        top.wait(lambda text: "ALERT" not in text, "it is over")
        assert top.quit() == 0


def test_a_server_goes_and_comes_back(pair, chatd):
    server = chatd(workers=1)
    with Screen(address(server), address(pair[1])) as top:
        top.wait(lambda text: len(re.findall("  ready  version ", text)) == 2, "both are ready")
        server.kill_all()
        top.wait(lambda text: "away for" in block_of(text, address(server)), "it is away")
        assert "servers 1/2" in top.text() and "Connection refused" in top.text()
        assert "  ready  " in block_of(top.text(), address(pair[1]))
        server.start()
        top.wait(lambda text: "  ready  " in block_of(text, address(server)), "it is back")
        block = top.wait(
            lambda text: "messages 0/s" in block_of(text, address(server))
            and block_of(text, address(server)),
            "there are rates again",
        )
        assert "up 0 s" in block or number(block, "up") < DEADLINE
        assert top.quit() == 0


def test_a_server_that_hangs_stops_nobody(pair):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"127.0.0.1:{silent.getsockname()[1]}"
        with Screen(hung, address(pair[0])) as top:
            clocks = set()
            top.wait(lambda text: clocks.add(text[:18]) or len(clocks) >= 3, "its clock goes on")
            assert "asked, no answer yet" in top.text() or "away for" in top.text()
            assert "  ready  " in block_of(top.text(), address(pair[0]))
            top.wait(lambda text: "no answer in time" in text, "it is called away")
            assert top.quit() == 0


def test_keys(pair):
    with Screen(*map(address, pair)) as top:
        top.wait(lambda text: "by number" in text and "every 0.2 s" in text, "it is drawn")
        for word in ("connections", "messages", "cpu", "memory", "number"):
            top.press("s", lambda text: f"by {word}" in text, f"it is sorted by {word}")
        top.press("+", lambda text: "every 0.5 s" in text, "slower")
        top.press("-", lambda text: "every 0.2 s" in text, "faster")
        top.press("p", lambda text: "paused" in text, "paused")
        top.press("p", lambda text: "paused" not in text, "not paused")
        top.press("h", lambda text: "chatd top: keys" in text, "help")
        top.press("?", lambda text: "every 0.2 s" in text, "no help")
        assert top.quit() == 0


def test_a_small_terminal_scrolls(pair):
    last = r"^ +0 +\d+ +ready "  # the other server's one worker, at the very end
    with Screen(*map(address, pair)) as top:
        top.wait(lambda text: len(re.findall(last, text, re.M)) == 2, "everything fits")
        top.resize(12, 60)
        # ncurses draws anew for the new size: the head stays, the end is below.
        top.wait(
            lambda text: text.startswith("chatd top") and 50 < max(map(len, text.splitlines())) < 60,
            "it is drawn anew, within the last column",
        )
        assert not re.findall(last, top.text(), re.M)
        end = address(pair[1])
        top.press(
            "\x1b[6~\x1b[6~\x1b[6~\x1b[6~", lambda text: re.search(last, text.splitlines()[-1]), "Page Down"
        )
        assert top.text().startswith("chatd top")
        line = top.text().splitlines()[-2]
        top.press("\x1bOA", lambda text: text.splitlines()[-1] == line, "up by a line")
        top.press(
            "\x1b[5~\x1b[5~\x1b[5~\x1b[5~", lambda text: address(pair[0]) in text.splitlines()[2], "Page Up"
        )
        top.resize(LINES, COLUMNS)
        top.wait(lambda text: len(re.findall(last, text, re.M)) == 2 and end in text, "everything again")
        assert top.quit() == 0


@pytest.mark.parametrize(
    "term, env, colours",
    [("xterm-256color", {}, True), ("xterm-256color", {"NO_COLOR": "1"}, False), ("vt100", {}, False)],
)
def test_colours_where_they_are_wanted(pair, term, env, colours):
    with Screen(address(pair[0]), term=term, env=env) as top:
        top.wait(lambda text: "  ready  " in text, "it is drawn")
        assert bool(re.search(rb"\x1b\[(?:\d+;)*3[0-9](?:;\d+)*m", top.raw)) == colours
        assert top.quit() == 0


def test_an_unknown_terminal_is_no_screen(pair):
    top = Screen(address(pair[0]), term="no-such-terminal")
    output = top.child.read().decode()
    top.child.close()
    assert top.child.exitstatus == 1 and "TERM=no-such-terminal" in output and "-b prints lines" in output


def test_a_reader_that_is_gone_is_an_error(pair):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [binary(), "top", "-b", "-d", "0.2", address(pair[0])],
        env=clean_env(),
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert done.returncode == 1 and b"standard output" in done.stderr
