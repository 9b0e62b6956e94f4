"""A real systemd as process 1 of namespaces of its own: the units run under it as they would on a host.

Its root is an overlay on this machine's, so nothing that happens in it stays. Network and kernel are this machine's;
control groups are version 2 without controllers, so limits on memory and tasks are read but not enforced.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from support.chatd import DEADLINE, until

SYSTEMD = "/lib/systemd/systemd"

# Runs in the new mount and process namespaces. $1 is a directory, $2 a tree that is copied over the root.
ENTER = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 box "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cp -a "$2/." "$1/root/"
chmod 755 "$1/root"
cd "$1/root"
mount -t proc proc proc
# The kernel is everybody's: nothing in here may set anything of it.
mount -o bind,ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
# Nothing of this machine is started, and nothing that sets a machine up, but the journal.
rm -rf etc/systemd/system
mkdir -p etc/systemd/system old
for unit in lib/systemd/system/sysinit.target.wants/* systemd-remount-fs.service systemd-journald-audit.socket; do
    case $unit in */systemd-journald.service) ;; *) ln -s /dev/null "etc/systemd/system/${unit##*/}" ;; esac
done
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n' >etc/systemd/journald.conf.d/box.conf
printf '[Unit]\\nDescription=box\\nDefaultDependencies=no\\n' >etc/systemd/system/box.target
pivot_root . old
umount -l /old
systemd-sysusers
systemd-tmpfiles --create chatd.conf
exec env container=box "$3" --unit=box.target --log-target=journal --show-status=no
"""


class Unavailable(Exception):
    """Why this machine can't have one."""


def _cgroup():
    """A new control group of version 2, below which the box has its own."""
    with open("/proc/self/mounts") as mounts:
        found = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
    if not found:
        raise Unavailable("no control groups of version 2 are mounted")
    path = Path(found[0]) / f"chatd-box-{os.getpid()}"
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise Unavailable(f"no control group can be made: {error}") from None
    return path


class Box:
    """`tree` is what `make install DESTDIR=tree` made, with whatever else the root should have."""

    def __init__(self, tree):
        if os.geteuid() != 0:
            raise Unavailable("not root")
        if not os.access(SYSTEMD, os.X_OK):
            raise Unavailable(f"no {SYSTEMD}")
        self.scratch = Path(tempfile.mkdtemp(prefix="chatd-box-"))
        self.cgroup = _cgroup()
        self.log = self.scratch.with_suffix(".log")
        self.init = None
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child=KILL",
                 "sh", "-c", ENTER, "box", self.scratch, tree, SYSTEMD],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: (self.cgroup / "cgroup.procs").write_text(str(os.getpid())),
            )
        try:
            until(lambda: self._is_up() or self.process.poll() is not None, "systemd is up in its box")
            if self.process.poll() is not None:
                lines = self.log.read_text(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else "no reason given"
                raise Unavailable(f"namespaces for a systemd can't be had: {reason}")
        except BaseException:
            self.close()
            raise

    def _is_up(self):
        if self.init is None:
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            self.init = found[0] if found else None
        try:
            running = self.init and os.readlink(f"/proc/{self.init}/exe") == os.path.realpath(SYSTEMD)
        except OSError:
            return False
        return running and self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def run(self, *command, check=True, timeout=DEADLINE):
        """A command inside; its standard output."""
        done = subprocess.run(
            ["nsenter", "--target", self.init, "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--", *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def show(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def journal(self, unit):
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager", check=False)

    def write(self, path, text, mode=0o644):
        """A file inside, its directory as well."""
        inside = Path(f"/proc/{self.init}/root{path}")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        inside.chmod(mode)

    def read(self, path):
        return Path(f"/proc/{self.init}/root{path}").read_text()

    def processes(self, unit):
        """Process ids as this machine knows them, the main one first, of the unit's control group."""
        group = self.cgroup / self.show(unit, "ControlGroup").lstrip("/") / "cgroup.procs"
        found = [int(pid) for pid in group.read_text().split()]
        return sorted(found, key=lambda pid: (not self._is_main(unit, pid), pid))

    def _is_main(self, unit, pid):
        inner = re.search(r"^NSpid:.*\s(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1]
        return inner == self.show(unit, "MainPID")

    def close(self):
        """Everything in it dies with its process 1."""
        if self.init and self.process.poll() is None:
            os.kill(int(self.init), signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        for group in sorted(self.cgroup.rglob("*/"), key=lambda path: -len(path.parts)):
            group.rmdir()
        until(lambda: self._removed(), "the control group of the box is empty")
        self.log.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _removed(self):
        try:
            self.cgroup.rmdir()
        except OSError:
            return False
        return True
