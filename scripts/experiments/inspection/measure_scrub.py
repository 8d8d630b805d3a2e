"""What a step by the arrow keys takes in the tab "Unrolls": an inspection of 10,000 steps of 300 tensors.

Measured are milliseconds of the processor in the page's main thread, in which other processes do not show, and those of
a clock from the key to the painted step. Rows out of sight are filled once one rests; here that is held back, as it is
while keys follow each other, however slow the machine.

    python -m scripts.experiments.inspection.measure_scrub

Writes results/inspection/scrub.json. Needs Chromium on the PATH and the extra [dev].
"""

import statistics
import tempfile
from pathlib import Path

import click
import torch
from playwright.sync_api import Frame, FrameLocator, Page
from torch.utils.tensorboard import SummaryWriter

from l2l_opt.inspection.unrolls_tab.recorder import UnrollRecorder, choose_weights
from l2l_opt.inspection.unrolls_tab.records import QUANTITIES, Header
from scripts.experiments import records
from scripts.experiments.inspection.serving import chromium, opened, tensorboard

SHAPE, UNITS = (64, 64), 16
KEYS = 50
REST = 100
"""Milliseconds that a key's repetitions are apart at most."""
WATCH = """(rest) => {
    const later = window.setTimeout;
    window.setTimeout = (callback, after, ...others) => (after >= rest ? 0 : later(callback, after, ...others));
    document.addEventListener("keydown", (event) => {
        window.painted = new Promise((done) => {
            const frame = new MessageChannel();
            // What a frame's callback posts comes after its style, layout and paint.
            frame.port1.onmessage = () => done(performance.now() - event.timeStamp);
            requestAnimationFrame(() => frame.port2.postMessage(null));
        });
    }, true);
}"""
PARTS = {"all": "TaskDuration", "script": "ScriptDuration", "style": "RecalcStyleDuration", "layout": "LayoutDuration"}


def write_unroll(folder: Path, *, steps: int, every: int, tensors: int) -> None:
    """Record an unroll of random numbers by what records real ones."""
    names = [f"layer.{index}.weight" for index in range(tensors)]
    entries = choose_weights(dict.fromkeys(names, SHAPE), dict.fromkeys(names, 16), UNITS)
    generator = torch.Generator().manual_seed(0)
    with SummaryWriter(str(folder)) as writer:
        recorder = UnrollRecorder(writer, Header("scale-free", steps, tuple(entries), UNITS))
        sizes = [3 * len(entry.sampled) for entry in entries]
        followed = [len(entry.followed) for entry in entries]
        for step in range(0, steps, every):
            table = torch.randn(tensors, len(QUANTITIES), generator=generator).tolist()
            weights = torch.randn(sum(sizes), generator=generator).split(sizes)
            hidden = torch.rand(sum(followed), UNITS, generator=generator).split(followed)
            recorder.add(
                step,
                1 / (1 + step),
                dict(zip(names, table, strict=True)),
                dict(zip(names, weights, strict=True)),
                dict(zip(names, hidden, strict=True)),
            )
        recorder.flush()


def scrub(page: Page, tab: FrameLocator, frame: Frame, key: str) -> dict[str, list[float]]:
    """Press a key again and again, each time once the last one is painted.

    Returns:
        Milliseconds of each: the processor's, in all and by part, and a clock's.
    """
    frame.evaluate(WATCH, REST)
    tab.get_by_role("heading", name="Unrolls", exact=True).click()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> dict[str, float]:
        found = {own["name"]: own["value"] for own in devtools.send("Performance.getMetrics")["metrics"]}
        return {part: 1000 * found[name] for part, name in PARTS.items()}

    taken: dict[str, list[float]] = {part: [] for part in [*PARTS, "clock"]}
    before = spent()
    for _ in range(KEYS):
        page.keyboard.press(key)
        taken["clock"].append(frame.evaluate("window.painted"))
        after = spent()
        for part in PARTS:
            taken[part].append(after[part] - before[part])
        before = after
    return taken


@click.command()
@click.option("--steps", default=10_000, show_default=True)
@click.option("--every", default=10, show_default=True, help="Steps between points; an inspection has 1,000 of them.")
@click.option("--tensors", default=300, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(steps: int, every: int, tensors: int, out: Path) -> None:
    """Record, serve, press arrow keys, and write the medians."""
    first, last = steps // 2, steps // 2 + KEYS * every
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_unroll(folder / "learned", steps=steps, every=every, tensors=tensors)
        with tensorboard(folder) as address, chromium() as browser:
            page, tab = opened(browser, address, step=first)
            tab.get_by_text(f"{tensors} tensors at step {first} of learned").wait_for()
            frame = next(own for own in page.frames if "plugin_entry" in own.url)
            taken = scrub(page, tab, frame, "ArrowRight")
            tab.get_by_text(f"{tensors} tensors at step {last} of learned").wait_for()
            version = browser.version
    medians = {part: statistics.median(own) for part, own in taken.items()}
    click.echo(f"{medians['all']:.1f} ms of the processor, {medians['clock']:.1f} ms by the clock: {medians}")
    content = {"chromium": version, "steps": steps, "every": every, "tensors": tensors, "keys": KEYS}
    records.write(out / "scrub.json", content | {"median_milliseconds": medians, "milliseconds": taken})


if __name__ == "__main__":
    main()
