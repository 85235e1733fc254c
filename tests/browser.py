"""A headless Chromium, driven by the DevTools protocol over two pipes: what a page shows, asks for and complains of."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --remote-debugging-pipe --hide-scrollbars"
_TIMEOUT_SECONDS = 60.0


def find_chromium() -> str | None:
    """The browser's path, or None where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """The one page of a browser.

    `asked`: every address that it has asked for; `errors`: what its console shows in red, and uncaught exceptions.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb", 0)
        self._rest, self._count, self._session = b"", 0, ""
        self.asked: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def resize(self, width: int, height: int, phone: bool = False) -> None:
        """Show pages at this size in CSS pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def open(self, address: str, until: str) -> None:
        """Load `address` and wait until the JavaScript expression `until` is true."""
        self._call("Page.navigate", url=address)
        self.wait(until)

    def wait(self, until: str) -> None:
        """Wait until the JavaScript expression `until` is true."""
        end = time.monotonic() + _TIMEOUT_SECONDS
        while not self.evaluate(f"Boolean(document.body && {until})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{until}: not within {_TIMEOUT_SECONDS:g} s; the page shows {self.text()[:2000]}")
            time.sleep(0.1)

    def wait_until_still(self, seconds: float = 1.0) -> None:
        """Wait until the page has looked the same for `seconds`."""
        end, since, before = time.monotonic() + _TIMEOUT_SECONDS, time.monotonic(), b""
        while time.monotonic() < min(end, since + seconds):
            seen = self._picture()
            if seen != before:
                since, before = time.monotonic(), seen
            time.sleep(0.1)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of what it promises."""
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def text(self) -> str:
        """What a reader sees."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def save_screenshot(self, path: Path) -> None:
        """Write what is visible as a PNG."""
        path.write_bytes(self._picture())

    def _picture(self) -> bytes:
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(json.dumps(params["entry"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._answers.read(1 << 16)
            if not more:
                raise RuntimeError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A page of a new browser that finds no host but this machine; `profile` is an empty folder."""
    found = find_chromium()
    if found is None:
        raise RuntimeError(f"none of {', '.join(NAMES)} is installed")
    (from_us, to_browser), (from_browser, to_us) = os.pipe(), os.pipe()
    # The protocol's descriptors are 3 and 4, whatever ours are.
    line = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
    here_only = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with subprocess.Popen(
        ["bash", "-c", line, found, *_FLAGS.split(), here_only, f"--user-data-dir={profile}"],
        pass_fds=(from_us, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as browser:
        os.close(from_us)
        os.close(to_us)
        try:
            yield Page(to_browser, from_browser)
        finally:
            browser.terminate()
            browser.wait(20)
