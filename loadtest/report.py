"""report.md and its plots, from what run.py saw: samples of /metrics and artillery's own results."""

import os
import platform
import statistics
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

WINDOW = 5  # samples over which chatd's percentiles are taken; one second alone has too few messages
QUANTILES = (0.5, 0.95, 0.99)
ARTILLERY_QUANTILES = ("p50", "p95", "p99")
ARTILLERY_PERIOD = 10  # seconds of one of its intermediate reports
BUSY = 0.85  # of a core: a thread of artillery above it measures itself
COLOURS = ("#1f77b4", "#ff7f0e", "#d62728", "#2ca02c", "#9467bd")
SHADES = ("#f2f2f2", "#e6e6e6")
MIB = 1 << 20


# -- series ------------------------------------------------------------------------------------------------------


def rates(samples, read, apart=1):
    """Per second between a sample and the one so many before it."""
    pairs = zip(samples, samples[apart:])
    return [None] * apart + [(read(new) - read(old)) / (new["time"] - old["time"]) for old, new in pairs]


def percentile(old, new, quantile):
    """In seconds, of what came between two readings of a cumulated histogram; None when nothing did.

    Linear within its bucket, as chatd and Prometheus do it; what is beyond the last bound counts as that."""
    counts = [(bound, count - before) for (bound, count), (_, before) in zip(new, old)]
    if not counts or counts[-1][1] <= 0:
        return None
    rank = quantile * counts[-1][1]
    low, below = 0.0, 0.0
    for bound, count in counts:
        if bound == "+Inf":
            return low
        if count >= rank:
            return low + (float(bound) - low) * (rank - below) / (count - below)
        low, below = float(bound), count
    return low


def window_percentiles(samples, quantile):
    values = []
    for at, sample in enumerate(samples):
        old = samples[max(0, at - WINDOW)]
        values.append(percentile(old["delivery_buckets"], sample["delivery_buckets"], quantile))
    return values


def artillery_cores(samples, pick):
    """Cores that artillery used between neighbours: `pick` (sum, max) of its threads."""
    values = [None]
    for old, new in zip(samples, samples[1:]):
        before = old["artillery_threads"]
        used = [seconds - before.get(thread, 0) for thread, seconds in new["artillery_threads"].items()]
        values.append(pick(used) / (new["time"] - old["time"]) if used and before else None)
    return values


def steps(runs, metric, quantile, start):
    """One of artillery's percentiles as a line: flat over each of its periods, broken between scenarios."""
    times, values = [], []
    for run in runs:
        for part in run["result"]["intermediate"]:
            value = part["summaries"].get(metric, {}).get(quantile)
            begin = int(part["period"]) / 1000 - start
            times += [begin, begin + ARTILLERY_PERIOD]
            values += [value, value]
        times.append(times[-1] if times else 0)
        values.append(None)
    return times, values


# -- plots -------------------------------------------------------------------------------------------------------


class Page:
    """One picture: panels above each other over the time of the whole run, scenarios shaded and named."""

    def __init__(self, samples, runs, titles):
        self.start = samples[0]["time"]
        self.times = [sample["time"] - self.start for sample in samples]
        size = (11, 2.6 * len(titles) + 0.6)
        self.figure, axes = plt.subplots(len(titles), 1, sharex=True, figsize=size, squeeze=False)
        self.axes = [row[0] for row in axes]
        for axis, title in zip(self.axes, titles):
            axis.set_title(title, loc="left", fontsize=10)
            axis.grid(axis="y", color="#cccccc", linewidth=0.5)
            axis.set_axisbelow(True)
            for number, run in enumerate(runs):
                begin, end = (run[name]["time"] - self.start for name in ("before", "after"))
                axis.axvspan(begin, end, color=SHADES[number % 2], zorder=0)
        for run in runs:
            middle = (run["before"]["time"] + run["after"]["time"]) / 2 - self.start
            self.axes[0].annotate(run["name"], (middle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 22),
                                  textcoords="offset points", ha="center", fontsize=10, fontweight="bold")
        self.axes[-1].set_xlabel("seconds since the start")

    def draw(self, panel, values, label, colour, style="-"):
        line = [float("nan") if value is None else value for value in values]
        self.axes[panel].plot(self.times, line, label=label, color=COLOURS[colour], linestyle=style, linewidth=1.3)

    def draw_steps(self, panel, line, label, colour):
        times, values = line
        values = [float("nan") if value is None else value for value in values]
        self.axes[panel].plot(times, values, label=label, color=COLOURS[colour], linewidth=1.6)

    def logarithmic(self, *panels):
        """A panel with nothing above 0 in it stays as it is: it has no logarithm."""
        for axis in (self.axes[panel] for panel in panels):
            if any(value > 0 for line in axis.get_lines() for value in line.get_ydata()):
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:,g}")

    def save(self, path):
        for axis in self.axes:
            if axis.get_yscale() == "linear":
                nothing = not any(value > 0 for line in axis.get_lines() for value in line.get_ydata())
                # With nothing to show matplotlib would pick a scale of hundredths.
                axis.set_ylim(bottom=0, top=1 if nothing else None)
            if len(axis.get_legend_handles_labels()[0]) > 1:
                axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
        self.figure.tight_layout()
        self.figure.savefig(path, dpi=100)
        plt.close(self.figure)


def metric(name):
    return lambda sample: sample["metrics"].get(name, 0)


def websocket_closes(sample):
    """Without those of HTTP: the sampler's own are two a second."""
    return metric("closes_total")(sample) - sample["metrics"].get("closes_by_reason", {}).get("http", 0)


def plot_connections(out, samples, runs):
    page = Page(samples, runs, ["WebSocket connections open", "connections opened and ended, per second"])
    page.draw(0, [metric("connections")(sample) for sample in samples], "open", 0)
    page.draw(1, rates(samples, metric("connections_opened_total")), "opened", 0)
    page.draw(1, rates(samples, websocket_closes), "ended", 1)
    page.save(out / "connections.png")


def plot_rates(out, samples, runs):
    page = Page(samples, runs, [
        "messages accepted, per second",
        "sent to members, per second (history: what users read to check that nothing is lost)"])
    page.draw(0, rates(samples, metric("messages_total")), "messages", 0)
    for colour, (name, label) in enumerate((
            ("deliveries_total", "deliveries"), ("presence_events_total", "presence"), ("typing_events_total", "typing"),
            ("replayed_total", "history"))):
        page.draw(1, [value or None for value in rates(samples, metric(name))], label, colour)
    page.logarithmic(1)
    page.save(out / "rates.png")


def plot_latency(out, samples, runs):
    page = Page(samples, runs, [
        "delivery as chatd has it: received → written to a member, ms (last 5 s)",
        "delivery as artillery's users have it: sent → received, ms (per 10 s)",
        "ack as artillery's users have it: sent → ack, ms (per 10 s)"])
    for colour, (quantile, name) in enumerate(zip(QUANTILES, ARTILLERY_QUANTILES)):
        values = [None if value is None else value * 1000 for value in window_percentiles(samples, quantile)]
        page.draw(0, values, name, colour)
        page.draw_steps(1, steps(runs, "chatd.delivery_ms", name, page.start), name, colour)
        page.draw_steps(2, steps(runs, "chatd.ack_ms", name, page.start), name, colour)
    page.logarithmic(0, 1, 2)
    page.save(out / "latency.png")


def plot_resources(out, samples, runs):
    page = Page(samples, runs, [
        "processor, cores in use (chatd tells every 5 s)", "resident memory of chatd's workers, MiB"])
    page.draw(0, rates(samples, metric("process_cpu_seconds_total"), WINDOW), "chatd, all workers", 0)
    page.draw(0, artillery_cores(samples, sum), "artillery, all threads", 1)
    page.draw(0, artillery_cores(samples, max), "artillery's busiest thread", 2, "--")
    page.axes[0].axhline(1, color="#888888", linewidth=0.8)
    page.draw(1, [metric("process_resident_memory_bytes")(sample) / MIB for sample in samples], "chatd", 0)
    page.save(out / "resources.png")


def plot_queues(out, samples, runs):
    page = Page(samples, runs, ["messages that wait", "send queues, KiB", "longest loop turn of the last 5 s, ms"])
    series = [("ack_queue", "for their ack"), ("store_queue", "for the store"), ("spool_messages", "in the spool")]
    # chatd on one host sends no command to a Redis.
    if any(metric("bus_commands_total")(sample) for sample in samples):
        series.append(("bus_queue", "for Redis"))
    for colour, (name, label) in enumerate(series):
        page.draw(0, [metric(name)(sample) for sample in samples], label, colour)
    page.axes[0].yaxis.get_major_locator().set_params(integer=True)
    page.draw(1, [metric("send_queue_bytes")(sample) / 1024 for sample in samples], "bytes", 0)
    page.draw(2, [metric("loop_turn_max_seconds")(sample) * 1000 for sample in samples], "turn", 0)
    page.save(out / "queues.png")


PLOTS = (("connections", plot_connections), ("rates", plot_rates), ("latency", plot_latency),
         ("resources", plot_resources), ("queues", plot_queues))


# -- report.md ---------------------------------------------------------------------------------------------------


def three(values):
    """p50 / p95 / p99 in ms."""
    return " / ".join("–" if value is None else f"{value:,.1f}" for value in values)


def figures(run, samples):
    """A row of the table: what this scenario came to."""
    during = [sample for sample in samples if sample["scenario"] == run["name"]] or [run["after"]]
    before, after = run["before"], run["after"]
    counters, summaries = (run["result"]["aggregate"][name] for name in ("counters", "summaries"))
    counted = {name: after["metrics"][name] - before["metrics"][name] for name in ("messages_total", "deliveries_total")}
    seconds = after["time"] - before["time"]
    chatd = [percentile(before["delivery_buckets"], after["delivery_buckets"], quantile) for quantile in QUANTILES]
    peak = max(sample["metrics"]["connections"] for sample in during)
    # While most users are there: artillery's own start takes a whole core too.
    busiest = [used for used, sample in zip(artillery_cores(during, max), during)
               if used is not None and sample["metrics"]["connections"] > peak / 2]
    cpu = after["metrics"]["process_cpu_seconds_total"] - before["metrics"]["process_cpu_seconds_total"]
    artillery = [[summaries.get(name, {}).get(quantile) for quantile in ARTILLERY_QUANTILES]
                 for name in ("chatd.delivery_ms", "chatd.ack_ms")]
    return {"users": counters.get("vusers.created", 0), "seconds": seconds, **counted,
            "peak": peak,
            "rate": max([value or 0 for value in rates(during, metric("deliveries_total"))]),
            "chatd": [None if value is None else value * 1000 for value in chatd],
            "delivery": artillery[0], "ack": artillery[1], "cpu": cpu / seconds, "busiest": statistics.quantiles(busiest, n=10)[-1] if len(busiest) > 1 else 0}


def write(out, runs, samples, target, phase):
    rows = [(run, figures(run, samples)) for run in runs]
    lines = ["# Load test of chatd", "",
             f"{time.strftime('%Y-%m-%d %H:%M')}, {target}, chatd {samples[-1]['metrics']['version']}, "
             f"{os.cpu_count()} cores shared by chatd and artillery, Linux {platform.release()}"
             + (f", with {', '.join(f'{name} {value}' for name, value in phase.items())}" if phase else "") + ".", "",
             "| scenario | users | connections, most | messages | deliveries | deliveries/s, most | delivery in chatd, ms | "
             "delivery for users, ms | ack for users, ms | chatd, cores | artillery's busiest thread, cores | |",
             "| --- " * 12 + "|"]
    for run, row in rows:
        lines.append(
            f"| {run['name']} | {row['users']:,} | {row['peak']:,} | {row['messages_total']:,} | {row['deliveries_total']:,} | "
            f"{row['rate']:,.0f} | {three(row['chatd'])} | {three(row['delivery'])} | {three(row['ack'])} | {row['cpu']:.2f} | "
            f"{row['busiest']:.2f} | {'FAIL' if run['faults'] else 'pass'} |")
    lines += ["", "Milliseconds are p50 / p95 / p99. In chatd: from a message's receipt to its last byte's write to a member. "
              "For users: from its first sending to its receipt by a member, or to its ack."]
    for run, row in rows:
        if row["busiest"] > BUSY:
            lines += ["", f"**{run['name']}: a thread of artillery used {row['busiest']:.0%} of a core.** The times for users "
                      "in it are artillery's own; chatd's are in the column before. loadtest/chatload can drive more."]
        for fault in run["faults"]:
            lines += ["", f"**{run['name']}**: {fault}"]
    for name, plot in PLOTS:
        plot(out, samples, runs)
        lines += ["", f"![{name}]({name}.png)"]
    lines += ["", "Raw: samples.jsonl (/metrics once a second), artillery-SCENARIO.json and .log."]
    (out / "report.md").write_text("\n".join(lines) + "\n")
