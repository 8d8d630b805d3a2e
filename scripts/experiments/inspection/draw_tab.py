"""Pictures of the tab "Unrolls" as it is: a real TensorBoard of an inspection, in a real browser.

    l2l-opt inspect default-4 --task digits-mlp --horizon 200 --baselines adam --logdir runs/inspection
    python -m scripts.experiments.inspection.draw_tab runs/inspection

Writes results/inspection/tab*.png. Needs Chromium on the PATH and the extra [dev].
"""

from collections.abc import Callable
from pathlib import Path

import click
from playwright.sync_api import FrameLocator, Locator

from scripts.experiments import records
from scripts.experiments.inspection.serving import DESK, chromium, opened, tensorboard

STEP = 40
PARTS: dict[str, Callable[[FrameLocator], Locator]] = {
    "tab-losses": lambda tab: tab.get_by_role("region", name="Losses"),
    "tab-tensors": lambda tab: tab.get_by_role("group", name="Tensors", exact=True),
    "tab-tensor": lambda tab: tab.get_by_role("group", name="Tensor", exact=True),
    "tab-weight": lambda tab: tab.get_by_role("group", name="Weight", exact=True),
    "tab-response": lambda tab: tab.get_by_role("group", name="Response", exact=True),
}
"""One picture a question of docs/inspection.md."""


@click.command()
@click.argument("logdir", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(logdir: Path, out: Path) -> None:
    """Take the pictures of an inspection in LOGDIR."""
    with tensorboard(logdir) as address, chromium() as browser:
        page, tab = opened(browser, address, step=STEP)
        page.screenshot(path=out / "tab.png")
        # Tall, so that nothing is scrolled under the slider.
        page.set_viewport_size({"width": DESK["width"], "height": 2600})
        for name, part in PARTS.items():
            part(tab).screenshot(path=out / f"{name}.png")
            click.echo(out / f"{name}.png")


if __name__ == "__main__":
    main()
