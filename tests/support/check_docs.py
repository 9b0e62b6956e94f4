#!/usr/bin/env python3
"""Checks that the documents speak of what exists.

src/ARCHITECTURE.md: every `name()` in backticks has to be defined below src/ (or be an inline function or a macro of a
header). There and in the READMEs: every path in backticks that starts with a folder of the repository has to be there.
deploy/metrics.md has a row for each row of metrics.def, deploy/logs.md for each event that is logged, and no others.
Prints what is wrong, and a last line `N passed, N failed, N skipped`.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "ARCHITECTURE.md"
PAGES = ["src/ARCHITECTURE.md", "README.md", "deploy/README.md", "loadtest/README.md", "tests/README.md"]

CALL = re.compile(r"`([A-Za-z_]\w*)\(\)`")
PATH = re.compile(r"`((?:src|include|tests|deploy|loadtest)/[\w./-]*)`")
# A definition starts in column 0 and its arguments are followed by a brace, not by a semicolon.
C_DEFINITION = re.compile(r"^[A-Za-z_][\w \t*]*?\b(\w+)\s*\((?:[^;{}()]|\([^;{}()]*\))*\)\s*\{", re.M)
MACRO = re.compile(r"^#define\s+(\w+)\(", re.M)
JS_DEFINITION = re.compile(r"(?:function\s+|^\s+(?:async\s+)?)(\w+)\s*\([^;{}]*\)\s*\{", re.M)


def defined_names():
    names = set()
    for path in [*ROOT.glob("src/**/*.c"), *ROOT.glob("src/**/*.h"), *ROOT.glob("include/chatd/*")]:
        text = path.read_text()
        names.update(C_DEFINITION.findall(text), MACRO.findall(text))
    for path in ROOT.glob("src/web/*.js"):
        names.update(JS_DEFINITION.findall(path.read_text()))
    return names


def metrics():
    """Names of metrics.def, as Prometheus has them."""
    table = (ROOT / "include/chatd/metrics.def").read_text()
    rows = re.findall(r"^(?:METRIC|FAMILY|HISTOGRAM)\((?:\w+, \w+, )?(\w+),\s+\"", table, re.M)
    return {name if name.startswith("process_") else f"chatd_{name}" for name in rows}


def events():
    """Events that are logged anywhere below src/; the name is the first string of the call."""
    found = set()
    for path in ROOT.glob("src/**/*.c"):
        text = path.read_text()
        found.update(re.findall(r"\blog_(?:debug|info|warn|error)\(\s*\"(\w+)\"", text))
        found.update(re.findall(r"\blog_event\([^;\"]*?\"(\w+)\"", text))
    return found | {"worker_stopped", "log_suppressed"}  # chosen by a condition; told by the log itself


def rows_of(page):
    """First cells, in backticks, of the page's tables."""
    return set(re.findall(r"^\| `(\w+)` \|", (ROOT / page).read_text(), re.M))


def compare(page, there, wanted):
    """What is missing in the page's tables, and what is too much."""
    return [f"{page}: {name} has no row" for name in sorted(wanted - there)] + [
        f"{page}: {name} is no longer there" for name in sorted(there - wanted)
    ]


def main():
    functions = sorted(set(CALL.findall(PAGE.read_text())))
    paths = sorted({(page, path) for page in PAGES for path in PATH.findall((ROOT / page).read_text())})
    names, rows, logged = defined_names(), metrics(), events()

    wrong = [f"src/ARCHITECTURE.md: {name}() is not defined below src/" for name in functions if name not in names]
    wrong += [f"{page}: {path} does not exist" for page, path in paths if not (ROOT / path).exists()]
    wrong += compare("deploy/metrics.md", rows_of("deploy/metrics.md"), rows)
    wrong += compare("deploy/logs.md", rows_of("deploy/logs.md"), logged)
    for line in wrong:
        print(line)
    passed = max(len(functions) + len(paths) + len(rows) + len(logged) - len(wrong), 0)
    print(f"{passed} passed, {len(wrong)} failed, 0 skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
