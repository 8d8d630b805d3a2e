"""Run the notebooks of scripts/examples/notebooks, and write each as a page with its outputs and pictures.

    python -m scripts.house.render_notebooks FOLDER     # some ten minutes; NOTEBOOK_EFFORT=0.01: under one, to try it

A notebook is a script in jupytext's percent format, so that it runs as it is too. A cell that draws has the alternative
text of its picture in its mark: `# %% alt="..."`. Pages are kept in build/notebooks until their script changes.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import click
import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "scripts" / "examples" / "notebooks"
KEPT = ROOT / "build" / "notebooks"


def render(notebook: Path, to: Path) -> None:
    """Run a notebook in a fresh folder, and write ``NAME.md`` and its pictures ``NAME-0.png``, ...

    Args:
        notebook: the script.
        to: a folder.

    Raises:
        CellExecutionError: of nbclient; a cell fails.
    """
    cells = jupytext.read(notebook)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as sockets:
        # Python starts in the one, and listens in the other, on files rather than on ports.
        kernel = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        NotebookClient(
            cells,
            kernel_name="python3",
            startup_timeout=600,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            config=kernel,
        ).execute()
    page, resources = MarkdownExporter().from_notebook_node(cells)
    alternatives = (cell.metadata["alt"] for cell in cells.cells if "alt" in cell.metadata)
    for number, ((name, picture), alternative) in enumerate(
        zip(resources["outputs"].items(), alternatives, strict=True)
    ):
        own = f"{notebook.stem}-{number}{Path(name).suffix}"
        (to / own).write_bytes(picture)
        page = page.replace(f"![png]({name})", f"![{alternative}]({own})")
    (to / f"{notebook.stem}.md").write_text(page)


def render_all(to: Path) -> None:
    """Write the pages of all notebooks into a folder; of those that have not changed, what was kept.

    Args:
        to: a folder that is there.
    """
    effort = os.environ.get("NOTEBOOK_EFFORT", "1")
    for notebook in sorted(NOTEBOOKS.glob("*.py")):
        kept = KEPT / hashlib.sha256(notebook.read_bytes() + effort.encode()).hexdigest()[:16]
        if not kept.exists():
            click.echo(f"running {notebook.relative_to(ROOT)}")
            with tempfile.TemporaryDirectory() as folder:
                render(notebook, Path(folder))
                shutil.copytree(folder, kept)
        shutil.copytree(kept, to, dirs_exist_ok=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Write pages of the notebooks into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    render_all(folder)


if __name__ == "__main__":
    main()
