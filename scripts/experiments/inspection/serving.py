"""A real TensorBoard of a folder, and its tab "Unrolls" in a real browser; needs Chromium and the extra [dev]."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from playwright.sync_api import Browser, FrameLocator, Page, sync_playwright

SECONDS = 600.0
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Serve a folder, and yield the address once a run named ``learned`` is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for_records(address, folder)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for_records(address: str, folder: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/l2l_unrolls/runs", timeout=SECONDS) as answer:
                if b'"learned"' in answer.read():
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.5)
    raise click.ClickException(f"TensorBoard must show a run named learned in {SECONDS:.0f} s; {folder} has none")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the browser of the PATH."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


def opened(
    browser: Browser,
    address: str,
    *,
    size: Any = DESK,
    scheme: Literal["light", "dark"] = "light",
    **view: str | int,
) -> tuple[Page, FrameLocator]:
    """Open the tab.

    Args:
        browser: whose page it is.
        address: of TensorBoard.
        size: of the window.
        scheme: of colours.
        **view: what is chosen, as in a link.
    """
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.set_default_timeout(1000 * SECONDS)
    page.goto(f"{address}/#l2l_unrolls" + "".join(f"&p.l2l_unrolls.{key}={value}" for key, value in view.items()))
    tab = page.frame_locator("iframe[src*=l2l_unrolls]")
    tab.locator("body[data-ready]").wait_for()
    return page, tab
