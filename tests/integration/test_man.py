"""The manual pages: clean, as the settings table has them, and complete."""

import os
import re
import shutil
import subprocess

import pytest

from support.chatd import ROOT, run_chatd

PAGES = sorted((ROOT / "deploy" / "man").iterdir())
COMMANDS = ("top", "doctor", "rules")


def test_both_pages_are_there():
    assert [page.name for page in PAGES] == ["chat.conf.5", "chatd.8"]


def test_the_page_of_the_settings_is_what_the_table_prints():
    # Not a part of the make above us, whose jobs it has no share of.
    env = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    subprocess.run(
        ["make", "-s", "build/release/print_man"], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL
    )
    made = subprocess.run(
        [ROOT / "build/release/print_man"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert (ROOT / "deploy/man/chat.conf.5").read_text() == made, "run make deploy/man/chat.conf.5"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize(
    "command",
    [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-mandoc", "-ww", "-Tutf8", "-z"]],
    ids=lambda command: command[0],
)
def test_the_page_is_clean(page, command):
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    done = subprocess.run([*command, page], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_the_page_knows_every_option_that_help_names(command):
    page = (ROOT / "deploy/man/chatd.8").read_text()
    if command is None:
        part = page.split(".Sh COMMANDS")[0]
        told = run_chatd("-h").stdout
        listed = re.findall(r"^  ([a-z]+) {2,}", told.split("Commands")[1], re.M)
        assert listed == list(COMMANDS)
    else:
        part = page.split(f".Ss chatd {command}\n")[1].split("\n.Ss ")[0].split("\n.Sh ")[0]
        told = run_chatd(command, "-h").stdout
    if command:
        long = run_chatd(command, "--help")
        assert (long.returncode, long.stdout, long.stderr) == (0, told, "")
    options = re.findall(r"^  -(\w)(?: ([A-Z]+))?  ", told, re.M) or re.findall(
        r"\[-(\w)(?: ([A-Z]+))?\]", told
    )
    described = re.findall(r"^\.It Fl (\w)(?: Ar (\w+))?$", part, re.M)
    assert sorted(name for name, _ in described) == sorted(name for name, _ in options)
    assert {name for name, value in described if value} == {name for name, value in options if value}
