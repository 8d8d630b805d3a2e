"""Pictures of the tab "Unrolls" as it is: a real TensorBoard of an inspection, in a real browser.

    l2l-opt inspect default-3 --task digits-mlp --horizon 200 --baselines adam --logdir runs/inspection
    python -m scripts.experiments.inspection.draw_tab runs/inspection

Writes results/inspection/tab*.png. Needs Chromium on the PATH and the extra [dev].
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
from playwright.sync_api import FrameLocator, Locator, sync_playwright

from scripts.experiments import records

SECONDS = 60.0
SIZE = {"width": 1280, "height": 860}
STEP = 40
PARTS: dict[str, Callable[[FrameLocator], Locator]] = {
    "tab-losses": lambda tab: tab.get_by_role("region", name="Losses"),
    "tab-tensors": lambda tab: tab.get_by_role("group", name="Tensors", exact=True),
    "tab-tensor": lambda tab: tab.get_by_role("group", name="Tensor", exact=True),
    "tab-weight": lambda tab: tab.get_by_role("group", name="Weight", exact=True),
    "tab-response": lambda tab: tab.get_by_role("group", name="Response", exact=True),
}
"""One picture a question of docs/inspection.md."""


def serve(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start TensorBoard, and return it and its address once it has the records."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/l2l_unrolls/runs", timeout=SECONDS) as answer:
                if b'"learned"' in answer.read():
                    return server, address
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    server.terminate()
    raise click.ClickException(f"TensorBoard must show a run named learned within a minute; {folder} has none")


@click.command()
@click.argument("logdir", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(logdir: Path, out: Path) -> None:
    """Take the pictures of an inspection in LOGDIR."""
    server, address = serve(logdir)
    try:
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(1000 * SECONDS)
            page.goto(f"{address}/#l2l_unrolls&p.l2l_unrolls.step={STEP}")
            tab = page.frame_locator("iframe[src*=l2l_unrolls]")
            tab.locator("body[data-ready]").wait_for()
            page.screenshot(path=out / "tab.png")
            # Tall, so that nothing is scrolled under the slider.
            page.set_viewport_size(SIZE | {"height": 2600})
            for name, part in PARTS.items():
                part(tab).screenshot(path=out / f"{name}.png")
                click.echo(out / f"{name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
