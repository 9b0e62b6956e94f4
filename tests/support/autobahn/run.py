#!/usr/bin/env python3
"""The Autobahn WebSocket suite against build/ws_echo.

    run.py           cases 1-7 and 10
    run.py --all     every case, the slow ones (9, limits) and those of extensions (12, 13) too
    run.py --cases '6.*' --server PATH    others, another server (started as PATH PORT)

The suite runs on Python 2.7 only: it is installed in build/autobahn-venv once; where no Python 2.7 is found nothing is
run and the reason is said. Reports stay in build/autobahn/. The last line is `N passed, N failed, N skipped`.
"""
import argparse
import glob
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = ROOT / "build"
VENV = BUILD / "autobahn-venv"
REPORT = BUILD / "autobahn"
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
SHORT = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
READY_SECONDS = 10
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}


class Unavailable(Exception):
    """The suite can't be run on this machine."""


def find_python27():
    """A name in PATH may be a shim for a version that is not active: only what answers counts."""
    candidates = [os.environ.get("PYTHON27"), shutil.which("python2.7"), shutil.which("python2")]
    candidates += sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/2.7*/bin/python2.7")))
    for path in filter(None, candidates):
        answer = subprocess.run([path, "-c", "import sys; print(sys.executable, sys.version_info[:2] == (2, 7))"],
                                capture_output=True, text=True)
        if answer.returncode == 0 and "True" in answer.stdout:
            return subprocess.run([path, "-c", "import sys; sys.stdout.write(sys.executable)"],
                                  capture_output=True, text=True).stdout
    raise Unavailable("no Python 2.7 on this machine")


def install_step(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Unavailable(f"can't install it: {command[0]}: " + " / ".join(done.stdout.strip().splitlines()[-3:]))


def installed_suite():
    """Returns the path of wstest, installing it first where that has not been done."""
    wstest, stamp = VENV / "bin" / "wstest", VENV / ".ready"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and wstest.exists():
        return wstest

    python27 = find_python27()
    print("installing autobahntestsuite in build/autobahn-venv (a minute)", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    # Later versions of virtualenv can't make an environment for Python 2.7.
    tool = BUILD / "autobahn-tool"
    install_step([sys.executable, "-m", "venv", tool])
    install_step([tool / "bin" / "pip", "install", "--quiet", "virtualenv<20.22"])
    install_step([tool / "bin" / "virtualenv", "--quiet", "-p", python27, VENV])
    install_step([VENV / "bin" / "pip", "install", "--quiet", "-r", REQUIREMENTS])
    shutil.rmtree(tool)
    stamp.write_text(wanted)
    return wstest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(server, port):
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    state = "does not listen" if server.poll() is None else f"ended with {server.returncode}"
    raise RuntimeError(f"the echo server {state}")


def run_suite(wstest, server_path, cases):
    """Returns case -> (behaviour, behaviour at close), and how the server stood at the end (None: still running)."""
    shutil.rmtree(REPORT, ignore_errors=True)
    REPORT.mkdir(parents=True)
    port = free_port()
    spec = {"outdir": str(REPORT), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
            "servers": [{"agent": "ws_echo", "url": f"ws://127.0.0.1:{port}", "options": {"version": 18}}]}
    (REPORT / "spec.json").write_text(json.dumps(spec))

    with open(REPORT / "server.log", "w") as log, open(REPORT / "wstest.log", "w") as wstest_log:
        server = subprocess.Popen([str(server_path), str(port)], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(server, port)
            suite = subprocess.run([str(wstest), "-m", "fuzzingclient", "-s", str(REPORT / "spec.json")],
                                   stdout=wstest_log, stderr=subprocess.STDOUT)
            ended = server.poll()
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    index = REPORT / "index.json"
    if suite.returncode != 0 or not index.exists():
        raise RuntimeError(f"wstest ended with {suite.returncode}: see build/autobahn/wstest.log")
    results = json.loads(index.read_text())["ws_echo"]
    return {case: (row["behavior"], row["behaviorClose"]) for case, row in results.items()}, ended


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--cases", nargs="+", default=SHORT)
    parser.add_argument("--server", default=BUILD / "ws_echo", type=pathlib.Path)
    options = parser.parse_args()
    cases = ["*"] if options.all else options.cases

    try:
        wstest = installed_suite()
    except Unavailable as why:
        print(f"skipped: Autobahn: {why}")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    try:
        results, ended = run_suite(wstest, options.server, cases)
    except (OSError, RuntimeError) as why:
        print(f"failed: Autobahn: {why}")
        print("0 passed, 1 failed, 0 skipped")
        return 1

    def by_number(item):
        return [int(part) for part in item[0].split(".")]

    passed = failed = skipped = 0
    for case, (behaviour, at_close) in sorted(results.items(), key=by_number):
        if behaviour == "UNIMPLEMENTED":
            skipped += 1
        elif behaviour in GOOD and at_close in GOOD:
            passed += 1
        else:
            failed += 1
            print(f"failed: case {case}: {behaviour}, at close {at_close}")
    if skipped:
        print(f"skipped: {skipped} cases of extensions that the server does not offer")
    if ended is not None:
        failed += 1
        print(f"failed: the echo server ended with {ended} during the run: see build/autobahn/server.log")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
