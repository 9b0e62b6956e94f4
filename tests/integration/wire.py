"""Bytes on a socket: HTTP heads and WebSocket frames as a test wants them, right or wrong. Blocking."""

import base64
import hashlib
import json
import os
import socket
import struct

from support.chatd import DEADLINE

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CONTINUE, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(opcode, payload=b"", fin=True, masked=True, rsv=0, length=None):
    """One client frame. `length` lies about the payload's length, always in the 8-byte form."""
    if isinstance(payload, str):
        payload = payload.encode()
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if length is not None:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    elif len(payload) < 126:
        head = struct.pack("!BB", first, mask_bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, len(payload))
    if not masked:
        return head + payload
    mask = os.urandom(4)
    stretched = (mask * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
    return head + mask + mixed.to_bytes(len(payload), "big")


def command(**fields):
    """One command as a text frame."""
    return frame(TEXT, json.dumps(fields))


class Head:
    """An answer's status line and headers (names in lower case; repeated ones joined by commas)."""

    def __init__(self, raw):
        lines = raw.decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        self.version, self.status = version, int(status)
        self.headers = {}
        for line in lines[1:]:
            if line:
                name, _, value = line.partition(":")
                name = name.lower()
                known = self.headers.get(name)
                self.headers[name] = f"{known}, {value.strip()}" if known else value.strip()


class Wire:
    """One TCP connection to a chatd."""

    def __init__(self, server, source="127.0.0.1", rcvbuf=None):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(DEADLINE)
        self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", server.port))
        self.port = self.sock.getsockname()[1]
        self.host = f"127.0.0.1:{server.port}"
        self.buffer = b""
        self.eof = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """A peer that has closed already is seen when its answer is read."""
        try:
            self.sock.sendall(data if isinstance(data, bytes) else data.encode())
        except (BrokenPipeError, ConnectionResetError):
            pass

    def more(self):
        """Reads what is there; False at the end of the connection. A hang is an error."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        except socket.timeout:
            raise AssertionError(f"silence; so far {self.buffer[:200]!r}") from None
        self.buffer += data
        self.eof = self.eof or not data
        return bool(data)

    def ended(self):
        """Reads to the end of the connection and returns all that came."""
        while self.more():
            pass
        return self.buffer

    # -- HTTP ------------------------------------------------------------------------------------------------

    def head(self):
        """The next answer's head; None when the connection ended without one."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                return None
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return Head(raw)

    def answer(self, has_body=True):
        """The next answer: (head, body). Bodies must say their length."""
        head = self.head()
        if head is None:
            return None, b""
        if not has_body or head.status in (101, 204, 304):
            return head, b""
        length = int(head.headers["content-length"])
        while len(self.buffer) < length:
            assert self.more(), f"the body ended after {len(self.buffer)} of {length} bytes"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return head, body

    def upgrade_head(self, drop=(), path="/ws", method="GET", version="HTTP/1.1", **headers):
        """A handshake. Keyword X_y replaces header X-y; `drop` leaves headers out."""
        self.key = base64.b64encode(os.urandom(16)).decode()
        fields = {
            "Host": self.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": self.key,
            "Sec-WebSocket-Version": "13",
        }
        for name, value in headers.items():
            fields[name.replace("_", "-")] = value
        lines = [f"{method} {path} {version}"]
        for name, value in fields.items():
            if name not in drop:
                lines += [f"{name}: {one}" for one in (value if isinstance(value, list) else [value])]
        return "\r\n".join(lines) + "\r\n\r\n"

    def upgrade(self, **options):
        """Sends a handshake; returns (head, body)."""
        self.send(self.upgrade_head(**options))
        return self.answer()

    def open(self):
        """A handshake that must succeed."""
        head, body = self.upgrade()
        assert head.status == 101, body
        return self

    def accept_key(self):
        return base64.b64encode(hashlib.sha1(self.key.encode() + GUID).digest()).decode()

    # -- frames ----------------------------------------------------------------------------------------------

    def _need(self, count):
        while len(self.buffer) < count:
            if not self.more():
                return False
        return True

    def frame(self):
        """The next frame: (opcode, payload); None at the end. Servers send whole, unmasked frames here."""
        if not self._need(2):
            return None
        first, second = self.buffer[0], self.buffer[1]
        assert not second & 0x80, "a server must not mask"
        length, start = second & 0x7F, 2
        if length == 126:
            if not self._need(4):
                return None
            length, start = struct.unpack("!H", self.buffer[2:4])[0], 4
        elif length == 127:
            if not self._need(10):
                return None
            length, start = struct.unpack("!Q", self.buffer[2:10])[0], 10
        if not self._need(start + length):
            return None
        payload, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return first & 0x0F, payload

    def event(self, type=None, **fields):
        """The next JSON event that fits; others are passed over."""
        while True:
            got = self.frame()
            assert got is not None, f"connection ended before {type} {fields}"
            assert got[0] != CLOSE, f"closed with {got[1]!r} before {type} {fields}"
            if got[0] == TEXT:
                event = json.loads(got[1])
                if type in (None, event["type"]) and all(event.get(k) == v for k, v in fields.items()):
                    return event

    def close_code(self):
        """Reads on until the server closes: its code, or None when the connection just ended."""
        while True:
            got = self.frame()
            if got is None:
                return None
            if got[0] == CLOSE:
                return struct.unpack("!H", got[1][:2])[0] if len(got[1]) >= 2 else 1005

    def chat(self, user, room=None):
        """Handshake, hello, join."""
        self.open()
        self.send(command(type="hello", id=1, user=user))
        self.event("welcome", id=1)
        if room:
            self.send(command(type="join", id=2, room=room))
            self.event("joined", id=2)
        return self

    def ping(self):
        """The connection must still answer."""
        self.send(command(type="ping", id="still there"))
        self.event("pong", id="still there")
