"""Build the documentation site: README, guides, reference and results, with search, and no request to anywhere.

    python -m scripts.house.build_site            # scripts/docs installs what it needs first

Pages lie in build/docs/pages as they lie here, so that their links among one another hold; notebooks, as pages, lie
beside their scripts, and links to these lead to them. Links that lead nowhere, and names of the reference that are not
in the package, are errors. A first build runs the notebooks, in some ten minutes; NOTEBOOK_EFFORT=0.01 makes it one.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click

from scripts.house.model_cards import fill_all
from scripts.house.render_notebooks import NOTEBOOKS, render_all

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
FOLDERS = ("docs", "results", "scripts", "l2l_opt")
"""Pages, and files that pages link to."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.npz", "*.gz", "*.so", "*.toml", "artefacts")


def lay_out(root: Path, to: Path) -> None:
    """Copy what makes up the site.

    Args:
        root: of the project.
        to: a folder, which is replaced.
    """
    shutil.rmtree(to, ignore_errors=True)
    pages = to / "pages"
    pages.mkdir(parents=True)
    for name in PAGES:
        shutil.copy(root / name, pages / name)
    for name in FOLDERS:
        shutil.copytree(root / name, pages / name, ignore=LEFT_OUT)
    shutil.copy(root / "docs" / "zensical.toml", to / "zensical.toml")
    render_all(pages / NOTEBOOKS.relative_to(ROOT))
    fill_all(pages / "docs" / "model-cards")
    for page in pages.rglob("*.md"):
        page.write_text(re.sub(r"(/notebooks/\w+)\.py\)", r"\1.md)", page.read_text()))


@click.command()
def main() -> None:
    folder = ROOT / "build" / "docs"
    lay_out(ROOT, folder)
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=folder, check=False)
    if built.returncode:
        raise click.ClickException("the site was not built; the messages above name what to mend")
    click.echo(f"the site: {folder / 'site' / 'index.html'}; with search: python -m http.server -d {folder / 'site'}")


if __name__ == "__main__":
    main()
