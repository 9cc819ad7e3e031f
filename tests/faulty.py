"""A TCP proxy that injects faults between a client and an HTTP server, here the object store.

    with FaultyProxy(("127.0.0.1", 8333)) as proxy:
        proxy.rules.append(Rule(b"PUT /bucket/out/metrics/_delta_log", "hold"))

A rule looks at what a client sends; the first that matches and is not used up acts.
"""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

Action = Literal["hold", "refuse", "unavailable", "cut", "slow"]

_BODY = b"<Error><Code>ServiceUnavailable</Code><Message>reduce your request rate</Message></Error>"
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass
class Rule:
    """pattern: bytes in what a client sends, any for b"". times: how often it acts. fired: set once it has.

    hold: keep the request, and the client waiting. refuse: close at once. unavailable: answer 503.
    cut: pass on half of what came, then close. slow: wait `seconds`, then pass on.
    """

    pattern: bytes
    action: Action
    times: float = float("inf")
    seconds: float = 0.2
    fired: threading.Event = field(default_factory=threading.Event)


class FaultyProxy:
    """Listens on a loopback port; `endpoint` is its URL."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "FaultyProxy":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Close every connection that is open."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            _close(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._rule(b"", connecting=True):
                    _close(client)
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            server = socket.create_connection(self.upstream)
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if not self._pass(data, client, server):
                    break
        _close(client)
        with suppress(UnboundLocalError):
            _close(server)

    def _pass(self, data: bytes, client: socket.socket, server: socket.socket) -> bool:
        """Whether the connection goes on."""
        rule = self._rule(data)
        if rule is None or rule.action == "slow":
            time.sleep(rule.seconds if rule else 0)
            server.sendall(data)
            return True
        if rule.action == "hold":
            client.recv(1)  # until the client goes away
        elif rule.action == "unavailable":
            client.sendall(_UNAVAILABLE)
        elif rule.action == "cut":
            server.sendall(data[: len(data) // 2])
        return False

    def _rule(self, data: bytes, *, connecting: bool = False) -> Rule | None:
        with self._lock:
            for rule in self.rules:
                right_moment = (rule.action == "refuse" and rule.pattern == b"") == connecting
                if right_moment and rule.pattern in data and rule.times > 0:
                    rule.times -= 1
                    rule.fired.set()
                    return rule
        return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _close(target)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()
