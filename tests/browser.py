"""A real browser opens a page: Chromium without a window, spoken to through its debugging pipe."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_FLAT = "[...document.querySelectorAll('svg')].filter(f => f.getBoundingClientRect().height < 40).length"


@dataclass
class Seen:
    """What the browser said of a page. overflow: pixels beyond the window, sideways; flat: figures without height."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    overflow: int = 0
    flat: int = 0


class Browser:
    """Commands and events of the DevTools protocol, each a JSON text that ends with a zero byte."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._events = os.fdopen(events, "rb")
        self._numbers = itertools.count(1)
        self._pending: list[dict[str, Any]] = []

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._events.read(1)) not in (b"\0", b""):
            text += byte
        assert text, "the browser ended"
        message: dict[str, Any] = json.loads(text)
        return message

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._commands.write(json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != number:
            self._pending.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def open(self, page: Path, width: int = 1280) -> Seen:
        """Open a file in a window of this width and wait until it is loaded."""
        tab = self.visit(page.as_uri(), width)
        seen = tab.seen()
        tab.close()
        return seen

    def visit(self, url: str, width: int = 1280) -> "Tab":
        """Open an address in a window of this width, wait until it is loaded, and leave it open."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable", session)
        tab = Tab(self, url, target, session)
        tab.resize(width)
        self._pending.clear()
        self._call("Page.navigate", session, url=url)
        while not any(message.get("method") == "Page.loadEventFired" for message in self._pending):
            self._pending.append(self._receive())
        return tab

    @staticmethod
    def _note(message: dict[str, Any], page: str, seen: Seen) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and params["request"]["url"] != page:
            seen.requests.append(params["request"]["url"])
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            seen.errors.append(params["entry"]["text"])
        if method == "Runtime.exceptionThrown":
            seen.errors.append(params["exceptionDetails"]["text"])
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            seen.errors.append(str(params["args"]))


@dataclass
class Tab:
    """A page that stays open: what a reader does, and what the page then is."""

    browser: Browser
    url: str
    target: str
    session: str

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser._call(method, self.session, **params)

    def resize(self, width: int, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited when it is a promise."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 10.0) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"not within {seconds} s: {expression}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self._call("Input.insertText", text=text)

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        """A key by its name and its number; modifiers: 8 is Shift."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **named)

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of everything that a screen reader meets."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def seen(self) -> Seen:
        """What has come up since the page was opened."""
        seen = Seen()
        seen.overflow, seen.flat = (self.evaluate(expression) for expression in (_OVERFLOW, _FLAT))
        for message in self.browser._pending:
            self.browser._note(message, self.url, seen)
        return seen

    def close(self) -> None:
        self.browser._call("Target.closeTarget", targetId=self.target)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A fresh browser; `profile` is an empty folder. Skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed ({', '.join(_NAMES)})")
    their_commands, commands = os.pipe()
    events, their_events = os.pipe()
    # The browser reads file descriptor 3 and writes 4; the shell puts our pipes there.
    script = f'exec "$0" "$@" 3<&{their_commands} 4>&{their_events}'
    command = ["bash", "-c", script, program, *_FLAGS, f"--user-data-dir={profile}"]
    fds = (their_commands, their_events)
    process = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for fd in fds:
        os.close(fd)
    try:
        yield Browser(commands, events)
    finally:
        process.terminate()
        process.wait()
