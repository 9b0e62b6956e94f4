"""What a message costs Redis and chatd when Redis and MongoDB stand behind it, and what members notice of a MongoDB that
hangs.

    make bench-servers                                           (or: tests/bench/bench_servers.py --rounds 3)

Real redis-server and a MongoDB-protocol server on this machine, one chatd, loadtest/chatload. In every other run MongoDB is
frozen (SIGSTOP) for ten seconds in the middle of the load. Prints the table that loadtest/README.md shows.

Exit code: 0 when every run was clean and p99 of delivery was below 50 ms while MongoDB was frozen, else 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True  # nothing is written into the source tree

from support.chatd import Chatd, until  # noqa: E402
from support.servers import Database, Redis, start_mongo  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
FROZEN_SECONDS = 10
BOUND_MS = 50

# 128-byte texts; every room has members on every worker.
LOAD = ["--connections=500", "--rooms=50", "--publishers=100", "--rate=1000", "--text-bytes=128"]


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def calls(redis):
    """How often each command was called so far, those inside scripts included."""
    with redis.client() as client:
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}


def measure(workers, frozen, options):
    redis, server = Redis(), start_mongo()
    mongo = Database(server, f"bench_{os.getpid()}")
    seconds = 20 if frozen else 10
    env = {"REDIS": redis.url, "MONGODB_URI": mongo.uri}
    try:
        with Chatd(workers=workers, env=env, allow=("mongodb_", "store_")) as chatd:
            before = calls(redis), cpu_seconds(redis.process.pid), chatd.metrics()
            thaw = threading.Timer(5 + FROZEN_SECONDS, mongo.thaw)
            freeze = threading.Timer(5, mongo.freeze)
            if frozen:
                until(lambda: chatd.get("/health")[0] == 200, "chatd is well")
                freeze.start(), thaw.start()
            done = subprocess.run(
                [options.chatload, *LOAD, f"--seconds={seconds}", f"--server-pid={chatd.pid}", "127.0.0.1",
                 str(chatd.port)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
            after = calls(redis), cpu_seconds(redis.process.pid), chatd.metrics()
            if done.returncode:
                print(f"not clean: {done.stderr[-1000:]}", file=sys.stderr)
            report = json.loads(done.stdout)
            messages = after[2]["messages_total"] - before[2]["messages_total"]
            used = {name: (count - before[0].get(name, 0)) / messages for name, count in after[0].items()}
            return {
                "clean": done.returncode == 0 and not report["refused"],
                "messages": messages,
                "redis_us": (after[1] - before[1]) * 1e6 / messages,
                "chatd_us": report["server"]["cpu_us_per_delivery"] * report["deliveries"] / messages,
                "commands": {name: n for name, n in sorted(used.items()) if n >= 0.005},
                "writes": (after[2]["bus_writes_total"] - before[2]["bus_writes_total"]) / messages,
                "batches": (after[2]["store_commit_seconds"]["count"] - before[2]["store_commit_seconds"]["count"]) / messages,
                "p99_ms": report["latency_us"]["p99"] / 1000,
                "ack_p99_ms": report["ack_latency_us"]["p99"] / 1000,
                "turn_max_ms": after[2]["loop_turn_max_seconds"] * 1000,
            }
    finally:
        mongo.close()
        server.close()
        redis.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chatload", default=str(ROOT / "build/chatload"))
    options = parser.parse_args()
    good = True
    print("| workers | MongoDB | Redis, µs CPU a message | chatd, µs CPU a message (all its deliveries) | writes to Redis a message "
          "| batches a message | p99 of delivery, ms | p99 of ack, ms | longest loop turn, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for workers in (1, 2):
        for frozen in (False, True):
            runs = []
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds}: {workers} workers, frozen={frozen}", file=sys.stderr)
                runs.append(measure(workers, frozen, options))
                time.sleep(0.5)
            middle = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "commands"}
            print(f"| {workers} | {'frozen for 10 s' if frozen else 'well'} | {middle['redis_us']:.1f} | {middle['chatd_us']:.1f} "
                  f"| {middle['writes']:.3f} | {middle['batches']:.3f} | {middle['p99_ms']:.1f} | {middle['ack_p99_ms']:.0f} "
                  f"| {middle['turn_max_ms']:.1f} |", flush=True)
            if not frozen:
                print("commands a message: " + ", ".join(f"{k} {v:.2f}" for k, v in runs[0]["commands"].items()),
                      file=sys.stderr)
            good = good and all(run["clean"] for run in runs) and (not frozen or middle["p99_ms"] < BOUND_MS)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
