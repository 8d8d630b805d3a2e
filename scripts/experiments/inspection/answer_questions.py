"""Whether the tab "Unrolls" answers questions: asked of a student whose answers are known, read from the page alone.

A perceptron on scikit-learn's digits is trained under the default rule and under Adam; its second layer is frozen part
of the way. Of each step the raw tensors are kept. Then a browser opens the tab, and the answers are taken from what is
visible there; the raw tensors have the true ones.

    python -m scripts.experiments.inspection.answer_questions

Writes results/inspection/questions.json, and the pages as they were read into a folder, --pages. Needs Chromium on the
PATH and the extra [dev].
"""

import copy
import re
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from playwright.sync_api import Browser, FrameLocator
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from l2l_opt import LearnedOptimizer
from l2l_opt.inspection import UnrollMonitor
from l2l_opt.inspection.measures.optimizer_state import RuleInputs, rule_inputs
from l2l_opt.rules.base import UpdateRule
from scripts.experiments import records
from scripts.experiments.inspection.serving import DESK, PHONE, chromium, opened, tensorboard

STEPS, FROZEN_FROM, SATURATION_STEP, EARLY_STEPS = 300, 120, 200, (0, 5, 10)
LAYER, PROBED = "layer2.weight", "layer1.weight"
RATE = 1e-3
"""Adam's, torch's default."""
Raw = list[dict[str, tuple[Tensor, Tensor]]]
"""By step and tensor: its update and its gradient."""


def student() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [("layer1", nn.Linear(64, 32)), ("relu1", nn.ReLU()), ("layer2", nn.Linear(32, 32)), ("relu2", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("layer3", nn.Linear(32, 10))]))


def train(name: str, folder: Path) -> tuple[Raw, tuple[UpdateRule, RuleInputs] | None]:
    """Train under one optimizer, watched; return its raw tensors, and the rule and what it is given at one step."""
    model = student()
    optimizer: torch.optim.Optimizer
    if name == "learned":
        optimizer = LearnedOptimizer(model.named_parameters(), num_steps=STEPS)
    else:
        optimizer = torch.optim.Adam(model.named_parameters(), lr=RATE)
    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(1)
    raw: Raw = []
    state = None
    with (
        SummaryWriter(str(folder / name)) as writer,
        UnrollMonitor(optimizer, writer, every=1, charts_every=10, histogram_every=0, responses_every=50) as monitor,
    ):
        for step in range(STEPS):
            model.layer2.requires_grad_(step < FROZEN_FROM)
            batch = torch.randint(len(images), (64,), generator=generator)
            loss = nn.functional.cross_entropy(model(images[batch].float() / 16), labels[batch])
            monitor.log_loss(loss)
            optimizer.zero_grad()
            loss.backward()
            if isinstance(optimizer, LearnedOptimizer) and step == SATURATION_STEP:
                state = copy.deepcopy((optimizer.rule, dict(rule_inputs(optimizer))[PROBED]))
            before = {key: p.detach().clone() for key, p in model.named_parameters()}
            optimizer.step()
            raw.append(
                {
                    key: (p.detach() - before[key], torch.zeros_like(p) if p.grad is None else p.grad.clone())
                    for key, p in model.named_parameters()
                }
            )
    return raw, state


def norm(raw: Raw, step: int, name: str) -> float:
    return float(raw[step][name][0].norm())


def stop_of(raw: Raw, name: str) -> int:
    """The step from which on a tensor's updates stay below a hundredth of its largest."""
    sizes = np.array([norm(raw, step, name) for step in range(STEPS)])
    return int(np.flatnonzero(sizes >= sizes.max() / 100)[-1]) + 1


def cosines(raw: Raw, step: int) -> dict[str, float]:
    """Of each tensor's update with its negative gradient, where it has one."""
    return {
        name: float(-(update * gradient).sum() / update.norm() / gradient.norm())
        for name, (update, gradient) in raw[step].items()
        if gradient.any()
    }


@torch.no_grad()
def share_of_outer_half(rule: UpdateRule, inputs: RuleInputs, place: int, reach: float) -> float:
    """By the rule's forward pass alone: how much gradients beyond half the reach add to one weight's update."""

    def update(last: float) -> float:
        state = inputs.state
        for own in (0.0, 0.0, 0.0, 0.0, 0.0, last):
            gradient = inputs.gradient.clone()
            gradient.view(-1)[place] = own
            updates, after = rule(
                {PROBED: gradient}, {PROBED: state}, {PROBED: inputs.param}, num_steps=inputs.num_steps
            )
            of_tensor = {key: value for key, value in state.items() if not value.dim() and key != "step"}
            state = after[PROBED] | of_tensor
        return float(updates[PROBED].view(-1)[place])

    return 1 - (update(reach / 2) - update(-reach / 2)) / (update(reach) - update(-reach))


def read_answers(browser: Browser, address: str, pages: Path) -> dict[str, Any]:
    """What the page has in words that one sees, found by headings, labels and column titles."""
    page, tab = opened(browser, address)
    tensors = tab.get_by_role("group", name="Table of tensors")
    words = tab.get_by_role("group", name="Tensor", exact=True)
    answers: dict[str, Any] = {}

    tensors.get_by_role("button", name=LAYER).click()
    found = words.get_by_text(re.compile(r"It stops moving at step \d+"))
    answers["layer 2 stops at step"] = int(numbers_in(found.inner_text().partition("stops moving at")[2])[0])
    page.screenshot(path=pages / "stops.png", full_page=True)

    header = tensors.get_by_role("columnheader", name="cos descent")
    for order in ("ascending", "descending"):
        header.get_by_role("button").click()
        row = tensors.get_by_role("row").nth(1)
        cosine = numbers_in(row.get_by_role("cell").nth(3).inner_text())[0]
        answers[f"cos descent at step 0, first {order}"] = [row.get_by_role("rowheader").inner_text(), cosine]
    page.screenshot(path=pages / "opposes.png")

    tensors.get_by_role("button", name=PROBED).click()
    go_to(tab, SATURATION_STEP)
    response = tab.get_by_role("group", name="Response")
    figure = response.get_by_role("figure").first.inner_text()
    answers["response"] = {"words": response.get_by_role("paragraph").first.inner_text(), "surface": figure}
    response.screenshot(path=pages / "saturated.png")

    tab.get_by_role("combobox", name="beside it").select_option("adam")
    first = tab.get_by_role("region", name="run").get_by_role("group", name="Tensor", exact=True)
    answers["times Adam's step"] = {}
    for step in EARLY_STEPS:
        go_to(tab, step)
        sentence = first.get_by_text("times the update under adam").inner_text()
        answers["times Adam's step"][step] = numbers_in(sentence.partition("That is")[2])[0]
    page.screenshot(path=pages / "early.png", full_page=True)
    return answers


def draw(browser: Browser, address: str, pages: Path) -> None:
    """Take the whole page, phone and desk, light and dark."""
    for name, size in (("phone", PHONE), ("desk", DESK)):
        for scheme in ("light", "dark"):
            page, _ = opened(browser, address, size=size, scheme=scheme, step=SATURATION_STEP, tensor=LAYER)
            page.set_viewport_size({"width": size["width"], "height": 3200})
            page.screenshot(path=pages / f"{name}-{scheme}.png")


def go_to(tab: FrameLocator, step: int) -> None:
    """Move the slider by its keys."""
    slider = tab.get_by_role("slider", name="Inner step")
    slider.press("Home")
    for _ in range(step // 10):
        slider.press("Shift+ArrowRight")
    for _ in range(step % 10):
        slider.press("ArrowRight")
    tab.get_by_text(f"step {step} of", exact=False).first.wait_for()


def numbers_in(text: str) -> list[float]:
    """Numbers of a sentence, as the tab writes them."""
    text = text.replace("\N{MINUS SIGN}", "-")
    return [float(found) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]\d+)?(?!\w)", text)]


def compared(answers: dict[str, Any], learned: Raw, adam: Raw, state: tuple[UpdateRule, RuleInputs]) -> list[dict]:
    """Each question, what the tab answers, what the raw tensors do, and whether these agree."""
    response = answers["response"]["surface"]
    place = np.ravel_multi_index(
        [int(index) for index in re.findall(r"\d+", answers["response"]["words"].partition("[")[2].partition("]")[0])],
        state[1].param.shape,
    )
    reach = numbers_in(response.partition("to ±")[2])[0]
    share = share_of_outer_half(*state, int(place), reach)
    shown = numbers_in(response.partition("adds")[2])[0] / 100
    stop = stop_of(learned, LAYER)
    own = cosines(learned, 0)
    rows: list[tuple[str, Any, Any, float]] = [
        ("at which step does layer 2 stop moving", answers["layer 2 stops at step"], stop, 0.0)
    ]
    for order, key in (("ascending", min(own, key=own.__getitem__)), ("descending", max(own, key=own.__getitem__))):
        name, cosine = answers[f"cos descent at step 0, first {order}"]
        question = f"which tensor's update goes most {'up' if order == 'ascending' else 'down'} its gradient"
        rows.append((question, name, key, 0.0))
        rows.append((f"{question}: cosine", cosine, own[key], 6e-3))
    rows.append(("is the response saturated at step 200: share of the outer half", shown, share, 0.05))
    rows.append(("is it saturated", "Not saturated" not in response, share < 0.1, 0.0))
    for step, ratio in answers["times Adam's step"].items():
        truth = norm(learned, step, PROBED) / norm(adam, step, PROBED)
        rows.append((f"times Adam's step at step {step}", ratio, truth, 0.01 * truth))
    return [
        {"question": question, "tab": tab, "raw": raw, "agree": bool(tab == raw or (room and abs(tab - raw) <= room))}
        for question, tab, raw, room in rows
    ]


@click.command()
@click.option("--pages", type=click.Path(path_type=Path), default=Path("runs/pages"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=records.RESULTS / "inspection", show_default=True)
def main(pages: Path, out: Path) -> None:
    """Train, serve, read, and compare."""
    torch.set_num_threads(1)
    pages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (learned, state), (adam, _) = (train(optimizer, folder) for optimizer in ("learned", "adam"))
        assert state is not None
        with tensorboard(folder) as address, chromium() as browser:
            rows = compared(read_answers(browser, address, pages), learned, adam, state)
            for row in rows:
                click.echo(f"{row['question']}: {row['tab']} in the tab, {row['raw']} in raw tensors")
            records.write(out / "questions.json", {"frozen_from": FROZEN_FROM, "answers": rows})
            draw(browser, address, pages)
    if not all(row["agree"] for row in rows):
        raise click.ClickException("the tab's answers must be those of the raw tensors")


if __name__ == "__main__":
    main()
