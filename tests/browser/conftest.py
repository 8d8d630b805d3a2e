"""A real browser: Chromium from $L2L_OPT_CHROMIUM or the PATH, driven by playwright, and the checker axe-core."""

import os
import shutil
from pathlib import Path

import pytest

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def unavailable(what):
    """Skip and say so, unless the environment promises a browser."""
    message = f"pages are tested in a real browser; found no {what}, see CONTRIBUTING.md"
    if os.environ.get("L2L_OPT_REQUIRE_BROWSER"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("L2L_OPT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        unavailable("Chromium")
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core, to be run in a page."""
    if not AXE.is_file():
        unavailable("axe-core")
    return AXE.read_text(encoding="utf-8")
