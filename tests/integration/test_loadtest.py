"""loadtest/artillery/protocol.js against a real chatd, by plain Node: its checks hold when all is well, and find what is not.

artillery itself stays out of `make test`: 600 MB, a minute to install. `make loadtest` runs it.
"""

import json
import re
import shutil
import signal
import subprocess
import threading

import pytest

from support.chatd import DEADLINE, ROOT, clean_env

PROTOCOL = ROOT / "loadtest/artillery/protocol.js"
PROCESSOR = ROOT / "loadtest/artillery/processor.js"
SCENARIOS = ROOT / "loadtest/artillery/load-test.yml"
RUN = ROOT / "loadtest/run.py"
ARTILLERY = ROOT / "build/loadtest/node_modules/artillery"
PYTHON = ROOT / "build/loadtest/venv/bin/python"
NO_RUN = 2

# Counts what users report; a duration counts as one. `command` is a line on standard input, for the steps of a test.
HEAD = """
const { ChatUser } = require(%s);
const [url, room] = process.argv.slice(1);
const counts = {}, reached = new Map();
const report = (what, value) => {
    counts[what] = (counts[what] || 0) + (typeof value === 'number' && !what.endsWith('_ms') ? value : 1);
};
const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
const until = async check => { while (!check()) await pause(5); };
const open = () => new WebSocket(url, 'chatd.v1');
const people = async names => Promise.all(names.map(async name => {
    const user = new ChatUser({ name, open, report, reached });
    const socket = open();
    await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
    await user.start(socket);
    await user.join(room);
    return user;
}));
const lines = require('node:readline').createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const command = async ask => { console.log(JSON.stringify(ask)); await lines.next(); };
(async () => { %s
    console.log(JSON.stringify(counts)); process.exit(0); })().catch(error => { console.error(error); process.exit(1); });
"""

VERDICTS = ("lost", "undelivered", "doubled", "out_of_order", "gaps", "resets", "unacknowledged", "failed")


@pytest.fixture(scope="module")
def node():
    """Node with a WebSocket of its own: by itself from 22 on, by an option from 20.10 on."""
    program = shutil.which("node")
    if not program:
        pytest.skip("no node on this machine")
    for options in ([], ["--experimental-websocket"]):
        probe = [program, *options, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return [program, *options]
    pytest.skip("node has no WebSocket: 20.10 or newer is needed")


def play(node, server, room, script, on_command=None):
    """Runs the script to its end and returns what its users reported."""
    source = HEAD % (json.dumps(str(PROTOCOL)), script)
    process = subprocess.Popen([*node, "-e", source, server.ws_url, room], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    last = None
    hang = threading.Timer(DEADLINE, process.kill)
    hang.start()
    try:
        for line in process.stdout:
            last = json.loads(line)
            if isinstance(last, str):
                on_command[last]()
                process.stdin.write("\n")
                process.stdin.flush()
        assert process.wait(DEADLINE) == 0, process.stderr.read()
    finally:
        hang.cancel()
        process.kill()
        process.communicate()
    return last


def faults(counts):
    return {name: counts[name] for name in VERDICTS if counts.get(name)}


def test_users_get_all_that_was_acknowledged_and_say_so(node, server2, room):
    counts = play(node, server2, room, """
        const users = await people(['ana', 'ben', 'cid']);
        for (let turn = 0; turn < 20; turn++) for (const user of users) user.say(room, 'words');
        users[0].typing(room, true);
        await until(() => counts.typing === 2);
        await Promise.all(users.map(user => user.finish()));
    """)
    assert not faults(counts)
    assert (counts["said"], counts["ack_ms"], counts["received"], counts["checked"]) == (60, 60, 180, 3)
    assert counts["delivery_ms"] == counts["received"]


def test_a_lost_connection_comes_back_with_its_session_and_what_it_missed(node, server2, room):
    counts = play(node, server2, room, """
        const [ana, ben] = await people(['ana', 'ben']);
        for (let turn = 0; turn < 5; turn++) {
            ana.say(room, 'on its way');
            ana.drop();
            ana.say(room, 'while away');
            ben.say(room, 'for who is away');
            await until(() => counts.back_ms === turn + 1);
        }
        await Promise.all([ana.finish(), ben.finish()]);
    """)
    assert not faults(counts)
    assert counts["resumed"] == counts["disconnects"] == counts["back_ms"] == 5
    assert counts["ack_ms"] + counts.get("retry_ack_ms", 0) == 15
    assert counts["received"] + counts.get("caught_up", 0) == 30


def test_users_outlive_a_killed_worker_and_a_restart(node, chatd, room):
    server = chatd(workers=2, env={"DRAIN_TIMEOUT": "200ms"})

    def kill():
        server.wait_respawned(server.kill_worker(0, signal.SIGKILL))

    def restart():
        server.stop()
        server.start()

    counts = play(node, server, room, """
        const users = await people(['ana', 'ben', 'cid', 'dan']);
        const settled = () => users.map(user => user.rooms.get(room)).every(one => one.joined && !one.unsettled.size);
        const talk = () => users.forEach(user => { for (let turn = 0; turn < 20; turn++) user.say(room, 'words'); });
        talk();
        await command('kill');
        talk();
        await until(settled);
        await command('restart');
        talk();
        await Promise.all(users.map(user => user.finish()));
    """, {"kill": kill, "restart": restart})
    assert not faults(counts)
    assert counts["ack_ms"] + counts.get("retry_ack_ms", 0) == 240
    assert counts["checked"] == 4 and counts["disconnects"] >= 4


@pytest.mark.parametrize("fault, verdict", [
    ("one.acked.set('99', one.last);", "lost"),  # an ack whose message history has not
    ("one.seen.delete('ana 1');", "undelivered"),  # acknowledged, never shown
    ("reached.set(room, one.last + 3);", "undelivered"),  # others have acks for more
    ("one.last--; ana.say(room, 'more'); await until(() => one.acked.size === 4);", "gaps"),
    ("ana.receive({ type: 'message', room, seq: one.last + 1, user: 'ana', key: '1', text: '0' });", "doubled"),
    ("ana.receive({ type: 'message', room, seq: one.last, user: 'ben', key: '1', text: '0' });", "out_of_order"),
], ids=["lost", "not-shown", "not-reached", "gap", "doubled", "out-of-order"])
def test_a_fault_does_not_go_unseen(node, server2, room, fault, verdict):
    counts = play(node, server2, room, """
        const [ana] = await people(['ana']);
        const one = ana.rooms.get(room);
        for (let turn = 0; turn < 3; turn++) ana.say(room, 'words');
        await until(() => one.seen.size === 3 && one.acked.size === 3);
        %s
        await ana.finish(300);
    """ % fault)
    assert verdict in faults(counts)


def test_scenarios_name_only_functions_that_the_processor_has(node):
    """artillery passes over a step whose function is missing for ever, without a word."""
    called = set(re.findall(r"function: (\w+)", SCENARIOS.read_text()))
    script = f"console.log(Object.keys(require({json.dumps(str(PROCESSOR))})).join(' '))"
    exported = set(subprocess.check_output([*node, "-e", script], text=True).split())
    assert called and called == exported


# -- run.py and report.py, where `make loadtest` has installed what they need --


def loadtest_python(*args, **env):
    if not PYTHON.exists() or not ARTILLERY.exists():
        pytest.skip("`make loadtest` has not been run here: no artillery, no matplotlib")
    return subprocess.run([PYTHON, *map(str, args)], env=clean_env(env), capture_output=True, text=True,
                          timeout=DEADLINE)


def test_chatd_that_cannot_be_run_is_told_in_a_line(node, tmp_path):
    program = tmp_path / "chatd"
    program.write_bytes(b"")
    program.chmod(0o644)
    done = loadtest_python(RUN, CHATD=program)
    assert done.returncode == NO_RUN, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("loadtest: ") and str(program) in line


def test_connections_of_http_are_not_counted_as_ended_ones():
    script = """import report
for closes in ({"closes_total": 134, "closes_by_reason": {"peer": 50, "http": 84}},
               {"closes_total": 3, "closes_by_reason": {"peer": 3}}):
    print(report.websocket_closes({"metrics": closes}))"""
    done = loadtest_python("-Bc", script, PYTHONPATH=RUN.parent)
    assert done.stdout.split() == ["50", "3"], done.stderr
