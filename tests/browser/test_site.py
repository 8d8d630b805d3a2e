"""The documentation site: whole, naming everything public, asking nobody for anything, and open to everyone."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading

import pytest

import l2l_opt
from scripts.house import render_notebooks
from scripts.house.build_site import ROOT, lay_out

pytestmark = pytest.mark.slow

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
NOTEBOOKS = [notebook.relative_to(ROOT) for notebook in render_notebooks.NOTEBOOKS.glob("*.py")]
PAGES = [
    "index.html",
    "docs/start/swap.html",
    "docs/default.html",
    "docs/api/optimizer.html",
    "docs/model-cards/default-4.html",
    "scripts/examples/notebooks/ten_examples.html",
]


def build(folder):
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, for which every notebook was run, with few steps."""
    folder = tmp_path_factory.mktemp("docs") / "docs"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NOTEBOOK_EFFORT", "0.01")
        patched.setattr(render_notebooks, "KEPT", folder.parent / "kept")
        lay_out(ROOT, folder)
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def address(site):
    """Where a server on this machine serves it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_every_public_name_is_in_the_reference(site):
    documented = set()
    for page in (site / "docs" / "api").glob("*.html"):
        documented |= set(re.findall(r'id="l2l_opt\.(\w+)"', page.read_text(encoding="utf-8")))
    assert set(l2l_opt.__all__) <= documented


def test_every_guide_is_in_the_navigation(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    for guide in (ROOT / "docs").rglob("*.md"):
        address = guide.relative_to(ROOT).with_suffix(".html")
        assert f'href="./{address}"' in home, f"docs/zensical.toml does not name {guide.relative_to(ROOT)}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_shows_what_it_prints_and_draws(site, notebook):
    source = (ROOT / notebook).read_text(encoding="utf-8")
    alternatives = re.findall(r'^# %% alt="(.*)"$', source, re.M)
    page = (site / notebook.with_suffix(".html")).read_text(encoding="utf-8")
    shown = dict(re.findall(rf'<img alt="([^"]+)" src="({notebook.stem}-\d.png)"', page))
    assert alternatives
    assert list(shown) == alternatives
    for name in shown.values():
        assert (site / notebook.with_name(name)).read_bytes().startswith(b"\x89PNG")


def test_links_to_notebooks_lead_to_their_pages(site):
    page = (site / "docs" / "start" / "swap.html").read_text(encoding="utf-8")
    assert 'href="../../scripts/examples/notebooks/swap_it_in.html"' in page


def test_every_shipped_rule_has_its_model_card(site):
    for name in l2l_opt.list_pretrained():
        page = (site / "docs" / "model-cards" / f"{name}.html").read_text(encoding="utf-8")
        assert l2l_opt.load_rule(name).card["digest"] in page


def test_a_link_that_leads_nowhere_fails_the_build(site, tmp_path):
    shutil.copytree(site.parent, tmp_path / "docs")
    with open(tmp_path / "docs" / "pages" / "docs" / "scale.md", "a", encoding="utf-8") as file:
        file.write("\n[gone](nowhere.md)\n")
    done = build(tmp_path / "docs")
    assert done.returncode != 0
    assert "nowhere.md" in re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESK, "light")], ids=["phone", "desk"])
def test_pages_are_open_to_everyone(chromium, axe, address, size, scheme):
    context = chromium.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in PAGES:
        page.goto(address + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        page.evaluate(axe)
        assert page.evaluate("axe.run(document)")["violations"] == [], name
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert complaints == []
    context.close()


def test_a_search_finds_what_the_default_does(chromium, address):
    page = chromium.new_page(viewport=DESK)
    page.goto(address + "index.html")
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type("whitening")
    page.locator("a", has_text="2. Whitening").first.click()
    page.wait_for_url(address + "docs/default.html*")
    assert "singular values are made nearly equal" in page.inner_text("article")
    page.close()
