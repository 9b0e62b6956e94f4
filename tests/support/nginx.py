"""nginx with the shipped files of deploy/nginx in front of chatd servers; only ports, paths and addresses are put in.

Clients take it for a server: they ask for `ws_url` and `ws_options`.
"""

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess

from support.chatd import DEADLINE, ROOT
from support.servers import Port, Server

SHIPPED = ROOT / "deploy" / "nginx"
NAME = "chat.example.com"  # in names.conf
OPERATOR = "127.0.0.1"  # the address that may see /metrics
OUTSIDE = "127.0.0.77"


def make_certificate(directory):
    """A CA and a certificate for NAME that it signed; returns the CA's file."""

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True, timeout=DEADLINE)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-new", *key, "-keyout", "privkey.pem", "-out", "server.csr", "-subj", f"/CN={NAME}")
    (directory / "san").write_text(f"subjectAltName=DNS:{NAME}\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "server.pem", "-days", "2", "-extfile", "san")
    (directory / "fullchain.pem").write_text((directory / "server.pem").read_text())
    return directory / "ca.pem"


class Nginx(Server):
    """`servers` are (host, port) of the chatd servers.

    `host` is where it listens, `sources` the addresses it goes out by (None: as shipped), `prefix` a command
    that runs it somewhere else (a network namespace), `texts` what stands in for shipped files: {name: text}."""

    def __init__(self, servers, host=OPERATOR, sources=None, prefix=(), texts=None, start=True):
        super().__init__("nginx")
        self.host, self.prefix, self.texts = host, list(prefix), texts or {}
        # In a namespace the port is free because nobody else is there.
        self.plain = Port()
        self.log_dir = self.scratch / "logs"
        for name in ("logs", "conf.d", "chatd", "temp"):
            (self.scratch / name).mkdir()
        self.ca = make_certificate(self.scratch / "chatd")
        self.conf_path = self.scratch / "nginx.conf"
        self._write(servers, sources)
        self.tls = ssl.create_default_context(cafile=self.ca)
        if start:
            self.start()

    def _write(self, servers, sources):
        paths = {
            "/etc/nginx/tls": self.scratch / "chatd",
            "/etc/nginx/chatd": self.scratch / "chatd",
            "/etc/nginx/conf.d": self.scratch / "conf.d",
            "/var/log/nginx": self.log_dir,
            "/run/nginx.pid": self.scratch / "nginx.pid",
        }
        v6 = "::1" if self.host == OPERATOR and has_ipv6() else None

        def put(name, to, *changes):
            text = self.texts.get(name) or (SHIPPED / name).read_text()
            for old, new in [*paths.items(), *changes]:
                text = text.replace(str(old), str(new))
            to.write_text(text)

        put("nginx.conf", self.conf_path)
        put("names.conf", self.scratch / "chatd" / "names.conf")
        listens = [
            ("listen 443", f"listen {self.host}:{self.port}"),
            ("listen 80", f"listen {self.host}:{self.plain.number}"),
            ("listen [::]:443", f"listen [{v6}]:{self.port}" if v6 else f"#listen [::]:{self.port}"),
            ("listen [::]:80", f"listen [{v6}]:{self.plain.number}" if v6 else "#listen [::]:80"),
        ]
        put("chatd.conf", self.scratch / "conf.d" / "chatd.conf", *listens)
        written = ("server 127.0.0.1:5000", "#server 10.0.0.12:5000")
        changes = [(old, f"server {host}:{port}") for old, (host, port) in zip(written, servers)]
        for i, source in enumerate(sources or ()):
            changes.append((f" 127.0.0.{i + 1};", f" {source};"))
        put("servers.conf", self.scratch / "chatd" / "servers.conf", *changes)
        # Where it keeps bodies for a while: Debian's places belong to root.
        temp = "".join(
            f"{kind}_temp_path {self.scratch}/temp/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.scratch / "conf.d" / "paths.conf").write_text(temp)

    def command(self):
        return [*self.prefix, "nginx", "-c", self.conf_path, "-g", "daemon off;"]

    def check(self):
        """nginx -t: what it says, and whether it likes the files."""
        return subprocess.run(
            [*self.prefix, "nginx", "-t", "-c", str(self.conf_path)],
            capture_output=True, text=True, timeout=DEADLINE,
        )

    def ready(self):
        try:
            socket.create_connection((self.host, self.port), DEADLINE).close()
            return True
        except OSError:
            return False

    def kill(self):
        """The master and its workers."""
        if self.running:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(DEADLINE)

    def close(self):
        self.plain.close()
        super().close()

    # -- as clients see it -----------------------------------------------------------------------------------

    @property
    def ws_url(self):
        return f"wss://{NAME}:{self.port}/ws"

    @property
    def ws_options(self):
        """For the client of `websockets`: the name is nobody's, so it is told the address."""
        return {"ssl": self.tls, "host": self.host, "port": self.port}

    def get(self, path, method="GET", headers=None, source=None, body=None):
        """One HTTPS request: (status, headers, body as bytes)."""
        connection = http.client.HTTPSConnection(NAME, self.port, timeout=DEADLINE, context=self.tls)
        connection._create_connection = lambda address, *rest, **more: socket.create_connection(
            (self.host, self.port), DEADLINE, (source, 0) if source else None
        )
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get_plain(self, path):
        """One request at the port without TLS."""
        connection = http.client.HTTPConnection(self.host, self.plain.number, timeout=DEADLINE)
        try:
            connection.request("GET", path, headers={"Host": NAME})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def all_logs(self):
        return "".join(path.read_text(errors="replace") for path in [self.log_path, *self.log_dir.iterdir()])


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def missing():
    """The programs that are not here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in ("nginx", "openssl") if not shutil.which(name, path=path)]
