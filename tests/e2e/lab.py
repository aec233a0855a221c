"""A real JupyterLab and a real browser that looks at it.

The server has directories of its own for everything it reads and writes, and runs in a folder of
notebooks the test makes. It and its kernels end with the context.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from .harness import PATIENCE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS: dict[str, dict[str, object]] = {
    # Don't ask at the first start whether to fetch news.
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    # By default a completion that takes a second is dropped; on a loaded machine the first one may.
    "completer-extension/manager": {"providerTimeout": PATIENCE * 1000},
}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab server."""

    url: str
    token: str
    root: Path

    def address(self, notebook: str) -> str:
        """Return the address that shows a notebook, in a workspace nobody used before."""
        workspace = secrets.token_hex(4)
        path = f"lab/workspaces/{workspace}/tree/{notebook}"
        return f"{self.url}{path}?token={self.token}"


class _Log:
    """What the server writes, read all the time so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._url = ""
        self._found = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if not self._url and (match := re.search(r"(http://127\.0\.0\.1:\d+/)lab\?", line)):
                self._url = match[1]
                self._found.set()
        self._found.set()

    def url(self) -> str:
        """Wait until the server says where it listens."""
        assert self._found.wait(PATIENCE), "JupyterLab doesn't say where it listens:\n" + str(self)
        assert self._url, "JupyterLab ended:\n" + str(self)
        return self._url

    def __str__(self) -> str:
        return "".join(self._lines)


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[Lab]:
    """Start JupyterLab on an empty folder."""
    token = secrets.token_hex(16)
    root = folder / "notebooks"
    environment = dict(os.environ)
    for name, path in {
        "IPYTHONDIR": folder / "ipython",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
    }.items():
        path.mkdir()
        environment[name] = str(path)
    root.mkdir()
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={_free_port()}", f"--ServerApp.root_dir={root}"),
            f"--IdentityProvider.token={token}",
        ],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Lab(_Log(process).url(), token, root)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium or Chrome of this machine without a window."""
    path = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"The end-to-end tests need one of {', '.join(BROWSERS)}, or CHROME=/path/to/it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def _free_port() -> int:
    """Return a port that is free now; JupyterLab takes the next one if somebody is faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
