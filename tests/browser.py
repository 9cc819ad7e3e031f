"""A headless Chromium, driven over its own debugging socket:
opens a page and tells what it said and asked for."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]


def chromium() -> str | None:
    """The browser's path; CFJOBS_CHROMIUM names one that is not on the PATH."""
    named = os.environ.get("CFJOBS_CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser")


class Tab:
    """One page of the browser. events: everything that it reported, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers, self.events = socket, itertools.count(1), list[dict[str, Any]]()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser something and return its answer."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") != number:
                self.events.append(message)
                continue
            assert "error" not in message, message["error"]
            found: dict[str, Any] = message["result"]
            return found

    def open(
        self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False, wait: float = 0.7
    ) -> None:
        """Load a page as on a screen of this size, and let it settle."""
        self.events.clear()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=url)
        self.settle(wait)

    def settle(self, seconds: float) -> None:
        """Take what the browser reports for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                self.events.append(json.loads(self.socket.recv(timeout=left)))
            except TimeoutError:
                return

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What the console shows in red or yellow, and every exception that nobody caught."""
        found = []
        for event in self.events:
            about = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
                found.append(str(about["entry"]))
            if event.get("method") == "Runtime.consoleAPICalled" and about["type"] in {
                "error",
                "warning",
                "assert",
            }:
                found.append(str(about))
        return found

    def requests(self) -> list[str]:
        """The URLs that were asked for, without those that carry their own data."""
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(executable: str, folder: Path) -> Iterator[Tab]:
    """A browser with a profile of its own under the folder, ended by its id."""
    profile = folder / "profile"
    command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_socket_of_first_tab(profile, process), max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _socket_of_first_tab(profile: Path, process: subprocess.Popen[bytes]) -> str:
    port_file = profile / "DevToolsActivePort"
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if port_file.exists() and port_file.read_text().count("\n") >= 1:
            port, path = port_file.read_text().split("\n")[:2]
            with connect(f"ws://127.0.0.1:{port}{path}") as whole:
                tab = Tab(whole)
                targets = tab.call("Target.getTargets")["targetInfos"]
            (page,) = [target for target in targets if target["type"] == "page"]
            return f"ws://127.0.0.1:{port}/devtools/page/{page['targetId']}"
        time.sleep(0.1)
    raise AssertionError("chromium did not start; see chromium.log beside its profile")
