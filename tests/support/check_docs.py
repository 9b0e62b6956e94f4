#!/usr/bin/env python3
"""Checks that src/ARCHITECTURE.md speaks of code that exists.

Every `name()` in backticks has to be defined below src/ (or be an inline function or a macro of a header), every
path in backticks that starts with a folder of the repository has to be there. Prints what is missing, and a last line
`N passed, N failed, N skipped`.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "ARCHITECTURE.md"

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


def main():
    page = PAGE.read_text()
    functions = sorted(set(CALL.findall(page)))
    paths = sorted(set(PATH.findall(page)))
    names = defined_names()

    missing = [f"{name}() is not defined below src/" for name in functions if name not in names]
    missing += [f"{path} does not exist" for path in paths if not (ROOT / path).exists()]
    for line in missing:
        print(f"src/ARCHITECTURE.md: {line}")
    print(f"{len(functions) + len(paths) - len(missing)} passed, {len(missing)} failed, 0 skipped")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
