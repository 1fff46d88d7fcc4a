"""Opens a page of nybble in a real browser, for tests: Chromium without a display.

    result = run(page, 390, script="document.title", screenshot=shots / "page-390.png")

Chromium's own protocol (Chrome DevTools) over the pipe that `--remote-debugging-pipe` opens: JSON
messages that end with a zero byte, on file descriptors 3 and 4. So nothing has to be installed
beside the browser, no port is opened, and the width is what was asked for (`--window-size` has a
minimum of about 500 pixels, a telephone has 390).

Not done here: more than one page at a time, other browsers, waiting for the network: a page that
asks for anything is a failed test (`Result.requests`).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WHY_NOT = "no Chromium on this machine (Debian: apt install chromium)"
SECONDS = 60.0
HEIGHT = 844


@dataclass(frozen=True)
class Result:
    """What a page did.

    dom: the document as it stood at the end, as HTML.
    console: warnings, errors and uncaught exceptions, one string each.
    requests: addresses of everything but the page itself that was asked for.
    value: what `script` gave, through JSON; None without one.
    screenshot: the PNG file, of the whole page; None where none was asked for.
    overflow: pixels by which the page is wider than the window; 0 is what a page should have.
    """

    dom: str
    console: tuple[str, ...]
    requests: tuple[str, ...]
    value: Any
    screenshot: Path | None
    overflow: int


def run(
    page: Path,
    width: int,
    script: str | None = None,
    *,
    screenshot: Path | None = None,
    pdf: Path | None = None,
    dark: bool = False,
    media: str = "",
    keys: tuple[str, ...] = (),
) -> Result:
    """Open `page` in a window of `width` pixels, run `script`, and tell what happened.

    script: a JavaScript expression, or a promise of one, run when the page has loaded; its value
    must be JSON. Several statements: `(() => { ...; return value; })()`.
    screenshot, pdf: files to write at the end; the folder is made. The PDF is the page as printed.
    dark: the reader prefers dark pages. media: "print" shows the page as its print style says.
    keys: pressed after `script`, one after the other, as in ("Tab", "ArrowRight"): real key
    presses, on what has the focus.
    """
    with _opened() as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        browser.call("Emulation.setEmulatedMedia", media=media, features=features)
        address = page.resolve().as_uri()
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")
        value = None if script is None else browser.evaluate(script)
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                browser.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=_KEYS.get(key, 0),
                )
        # Two frames later whatever the script changed has been drawn.
        browser.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        overflow = browser.evaluate("document.documentElement.scrollWidth") - width
        if screenshot is not None:
            shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True)
            _write(screenshot, shot["data"])
        dom = browser.evaluate("document.documentElement.outerHTML")
        if pdf is not None:
            # A4 in inches; millimetre margins of an ordinary printer.
            printed = browser.call(
                "Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True
            )
            _write(pdf, printed["data"])
        return Result(
            str(dom),
            tuple(browser.console),
            tuple(one for one in browser.requests if one != address),
            value,
            screenshot,
            max(0, int(overflow)),
        )


_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Space": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


def _write(path: Path, data: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(data))


class _Browser:
    """One running Chromium and the two ends of its pipe."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back = to, back
        self.session: str | None = None
        self.console: list[str] = []
        self.requests: list[str] = []
        self._rest = b""
        self._count = 0
        self._seen: set[str] = set()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data) :]
        end = time.monotonic() + SECONDS
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(_exception(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, event: str) -> None:
        """Read messages until `event` has come."""
        end = time.monotonic() + SECONDS
        while event not in self._seen:
            self._next(end, event)

    def _next(self, end: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium did not answer within {SECONDS:.0f} s: {what}")
            read = os.read(self.back, 1 << 20)
            if not read:
                raise RuntimeError(f"Chromium ended while it was asked for {what}")
            self._rest += read
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._note(message["method"], message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        self._seen.add(event)
        if event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            texts = [str(a.get("value", a.get("description", ""))) for a in params["args"]]
            self.console.append(f"{params['type']}: {' '.join(texts)}")
        elif event == "Runtime.exceptionThrown":
            self.console.append(_exception(params["exceptionDetails"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                self.requests.append(address)


def _exception(details: dict[str, Any]) -> str:
    thrown = details.get("exception", {})
    return f"exception: {thrown.get('description', thrown.get('value', details.get('text')))}"


@contextmanager
def _opened() -> Iterator[_Browser]:
    """Start Chromium with a profile of its own, and end what was started."""
    if PATH is None:
        raise RuntimeError(WHY_NOT)
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    # Chromium reads commands from 3 and answers on 4; the shell puts the pipes there.
    command = f'exec "$@" 3<&{read_in} 4>&{write_out}'
    with tempfile.TemporaryDirectory(prefix="nybble-browser-", ignore_cleanup_errors=True) as home:
        arguments = [
            PATH,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={home}",
        ]
        process = subprocess.Popen(
            ["/bin/bash", "-c", command, "bash", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(read_in, write_out),
            env={**os.environ, "HOME": home},
        )
        os.close(read_in)
        os.close(write_out)
        browser = _Browser(write_in, read_out)
        try:
            yield browser
        finally:
            browser.session = None
            with suppress(OSError, RuntimeError, TimeoutError):
                browser.call("Browser.close")
            os.close(write_in)
            os.close(read_out)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
