"""A real browser that tests drive: clicks, keys, drops and screenshots over the DevTools protocol.

Over its pipe, which needs no package and no port.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--no-default-browser-check"),
)
KEYS = {  # key -> code, its number in Windows, and what it types
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
    "Tab": ("Tab", 9, ""),
    "PageDown": ("PageDown", 34, ""),
    "/": ("Slash", 191, "/"),
    "?": ("Slash", 191, "?"),
}


def program() -> str:
    """Chromium's path; a test that needs it skips without."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("chromium is not installed")
    return found


class Browser:
    """One Chromium with one page.

    Attributes:
        problems: what the page's console said of errors, and exceptions nobody caught.
        dialogs: alerts that the page opened, which were closed.
    """

    def __init__(self, profile: Path):
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        command = [program(), *SWITCHES, f"--user-data-dir={profile}", "--remote-debugging-pipe"]

        def three_and_four() -> None:  # the pipe's fixed places
            # moved away first: each may lie where the other has to go
            first, second = os.dup(there), os.dup(back)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._log = (profile.parent / f"{profile.name}.log").open("wb")
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            stdout=self._log,
            stderr=self._log,
            preexec_fn=three_and_four,
            close_fds=False,
        )
        os.close(there)
        os.close(back)
        self._buffer, self._last, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.dialogs: list[str] = []
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as a window in front
        clipboard = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self.call("Browser.grantPermissions", permissions=clipboard)

    def close(self) -> None:
        os.close(self._write)  # it ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._log.close()

    # -- The protocol ------------------------------------------------------------------------------

    def call(self, method: str, **parameters: Any) -> dict:
        """A command's result. Raises AssertionError with what the browser says is wrong."""
        number, end = self._send(method, parameters), time.monotonic() + 60
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _send(self, method: str, parameters: dict) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        return self._last

    def _receive(self, end: float) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        kind, told = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.problems.append(str(details.get("exception", details).get("description", details)))
        elif kind == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif kind == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])
            self._send("Page.handleJavaScriptDialog", {"accept": False})  # it would block the page

    # -- What a person does ------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def reload(self) -> None:
        self.run("window.notReloaded = true")
        self.call("Page.reload")
        self.until("!window.notReloaded && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited, as JSON has it."""
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, (
                f"never true: {script}\n{self.problems}\n"
                + str(self.run("document.body.innerText"))[:3000]
            )
            time.sleep(0.03)
        return value

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of the first element that a selector finds, scrolled into view."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "if (!e) return null; e.scrollIntoView({block: 'nearest'});"
            "const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        assert found, f"nothing is {selector}"
        return found[0], found[1]

    def click(self, selector: str) -> None:
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, *keys: str) -> None:
        for key in keys:
            letter = (f"Key{key.upper()}", ord(key.upper()[0]), key)
            code, number, text = KEYS.get(key, letter)
            event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            if text:
                event["text"] = text
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def drop(self, selector: str, *files: Path) -> None:
        """Files, as from a file manager."""
        x, y = self.place(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def paste(self) -> None:
        """What is in the clipboard, with Ctrl+V."""
        event = {"key": "v", "code": "KeyV", "windowsVirtualKeyCode": 86, "modifiers": 2}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", commands=["paste"], **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    # -- How it is shown ---------------------------------------------------------------------------

    def screen(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def language(self, tag: str) -> None:
        """Of the browser, from the next page on."""
        agent = self.call("Runtime.evaluate", expression="navigator.userAgent")["result"]["value"]
        self.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=tag)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def accessible(self) -> list[dict]:
        """What a screen reader is told of the page: role, name and properties of each element."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                **{each["name"]: each["value"].get("value") for each in node.get("properties", [])},
            }
            for node in nodes
            if not node["ignored"]
        ]


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
