"""The examples: other training loops take the steps that they plan; other tasks; industry."""

import csv
import importlib
import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import average_precision_score

from l2l_opt import LearnedOptimizer
from l2l_opt.few_shot.base_models.tables import LabelledRows
from l2l_opt.specialising import plan, selection
from l2l_opt.specialising import run as specialising
from l2l_opt.tasks import make_task
from l2l_opt.tasks.images.datasets import load_fashion_subset
from scripts.examples.industry.merchants import generate_merchant
from scripts.examples.industry.placeholders import as_in_a_shop, render_placeholders
from scripts.examples.specialising import trainings
from tests import own_data

pytestmark = pytest.mark.slow


def example(name):
    return importlib.import_module(f"scripts.examples.{name}")


# Lightning deprecates its own use of torch's trees, and recommends workers for loading data that is in memory; a
# Trainer pins memory where there is no accelerator.
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize(
    ("client", "shorter", "score", "least", "most"),
    [
        ("lightning", 3, "test accuracy", 0.9, 1),
        ("accelerate", 3, "test accuracy", 0.9, 1),
        ("skorch", 3, "test accuracy", 0.9, 1),
        ("hugging_face", 20, "test loss", 1, 3),
    ],
)
def test_a_client_takes_as_many_steps_as_it_gives_the_rule(client, shorter, score, least, most, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = []

    class Watched(LearnedOptimizer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    module = example(f"training_loops.{client}_training")
    monkeypatch.setattr(module, "LearnedOptimizer", Watched)
    module.main(shorter)
    assert made
    for optimizer in made:
        for group in optimizer.param_groups:
            assert group["lr"] == 1
            assert {optimizer.state[param]["step"].item() for param in group["params"]} == {group["num_steps"]}
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert least < float(last_line.partition(f"; {score} ")[2]) <= most


def test_a_users_ratings_are_predicted(tmp_path):
    module = example("recommendation.matrix_factorisation")
    module.write_ratings(tmp_path / "ratings.csv", *module.generate_ratings(torch.Generator().manual_seed(1), 6000))
    error, error_of_mean, liked = module.train(tmp_path / "ratings.csv", steps=300)
    assert 0.4 < error < 0.9 * error_of_mean
    assert len(set(liked)) == 5
    assert set(liked) <= set(module.read_ratings(tmp_path / "ratings.csv").items)


def test_a_density_of_ones_own_is_sampled():
    """By most of five seeds: each run is chaotic, and the effective sample size of its draws hangs on a few of them."""
    runs = [example("density.importance_sampling").train(steps=200, seed=seed) for seed in range(5)]
    before, after = (np.array(part) for part in zip(*runs, strict=True))
    assert before[:, 0].max() < 0.5
    assert 0.6 < np.median(after[:, 0]) <= after[:, 0].max() <= 1
    assert np.median(after[:, 1]) == pytest.approx(math.pi, rel=0.03)


SMALL_NAVIGATION = "navigation:steps=20,episodes=6,hidden=8"


def test_meta_training_makes_policies_adapt():
    maml, family = example("reinforcement_learning.adapting_policies"), make_task(SMALL_NAVIGATION)
    # At a rate far too low there is enough to be learned: over five seeds the return gains .7 to .9.
    learner = maml.fresh_learner(family, "sgd:lr=0.002", outer_steps=60, inner_steps=2, environments=6)
    first, rate = {name: value.clone() for name, value in learner.theta.items()}, learner.rule.log_lr.clone()
    before = maml.returns_after_steps(learner, most=2, environments=30)
    assert learner.run()
    after = maml.returns_after_steps(learner, most=2, environments=30)
    # One policy cannot know the goal; two steps later it does.
    assert after[2] > max(after[0], before[2]) + 0.3
    assert all((learner.theta[name] != value).any() for name, value in first.items())
    assert learner.rule.log_lr != rate


def test_reinforcement_learning_from_the_command_line():
    main = example("reinforcement_learning.adapting_policies").main
    short = ["--task", SMALL_NAVIGATION, "--outer-steps", "1", "--inner-steps", "1", "--environments", "2"]
    done = CliRunner().invoke(main, short)
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) == 3
    refused = CliRunner().invoke(main, ["--task", "quadratics"])
    assert refused.exit_code == 2
    assert "a task must be of policies; got 'quadratics'" in refused.output


def test_a_shipped_rule_trains_a_policy_in_gymnasiums_own_environment():
    returns = example("reinforcement_learning.gymnasium_policy").train(
        "CartPole-v1", rule="default-1", updates=25, episodes=8, steps=60
    )
    assert len(returns) == 25
    assert sum(returns[-5:]) > 1.5 * sum(returns[:5])


def run(name, *arguments):
    result = CliRunner().invoke(example(name).main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_placeholder_images_of_ones_own(tmp_path):
    """Pictures of a folder are labelled, others scored: placeholders are the likelier ones."""
    random = np.random.default_rng(0)
    for folder, count in (("labelled", 8), ("new", 4)):
        for kind in ("photo", "placeholder"):
            place = tmp_path / folder / kind
            place.mkdir(parents=True)
            pictures = (
                as_in_a_shop(load_fashion_subset().test_images[:count], random)
                if kind == "photo"
                else render_placeholders(["camera", "crossed-box"], count, random)[0]
            )
            for number, picture in enumerate(pictures):
                Image.fromarray((255 * picture).numpy().astype(np.uint8)).resize((60, 60)).save(place / f"{number}.png")
    options = ["--labelled", tmp_path / "labelled", "--new", tmp_path / "new", "--out", tmp_path / "found.csv"]
    assert "stacking weight of classifier" in run(
        "industry.placeholder_images", *options, "--outer-steps", 4, "--train-steps", 60
    )
    with open(tmp_path / "found.csv", newline="") as text:
        found = {row["file"]: float(row["probability_placeholder"]) for row in csv.DictReader(text)}
    assert len(found) == 8
    means = [np.mean([p for file, p in found.items() if f"/{kind}/" in file]) for kind in ("photo", "placeholder")]
    assert means[1] > means[0] + 0.1


def test_fraud_of_ones_own(tmp_path):
    """Tables of other merchants and of one's own give a probability for each new row."""
    folder = tmp_path / "others"
    folder.mkdir()
    for number in range(10):
        write_rows(folder / f"{number}.csv", generate_merchant(number, rows=1300))
    merchant = generate_merchant(1000, rows=400)
    wanted = np.argsort(-merchant.targets, kind="stable")
    known, new = np.r_[wanted[:4], wanted[-12:]], wanted[4:-12]
    write_rows(tmp_path / "mine.csv", LabelledRows(merchant.rows[known], merchant.targets[known]))
    write_rows(tmp_path / "new.csv", LabelledRows(merchant.rows[new], merchant.targets[new]), label=None)
    files = {"--others": folder, "--labelled": tmp_path / "mine.csv", "--new": tmp_path / "new.csv"}
    options = [part for pair in files.items() for part in pair]
    assert "accepted" in run("industry.fraud", *options, "--out", tmp_path / "found.csv", "--outer-steps", 4)
    with open(tmp_path / "found.csv", newline="") as text:
        scores = [float(row["probability_fraud"]) for row in csv.DictReader(text)]
    assert len(scores) == len(new)
    assert average_precision_score(merchant.targets[new], scores) > 2 * merchant.targets[new].mean()


def write_rows(file, merchant, label="label"):
    names = [f"column {place}" for place in range(merchant.rows.shape[1])]
    with open(file, "w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(names if label is None else [*names, label])
        for row, target in zip(merchant.rows.tolist(), merchant.targets.tolist(), strict=True):
            writer.writerow(row if label is None else [*row, target])


@pytest.fixture
def _few_students(monkeypatch):
    monkeypatch.setattr(selection, "STUDENTS", 3)
    monkeypatch.setattr(selection, "SIZES", range(-1, 2))
    monkeypatch.setattr(selection, "WIDEST", 1)
    stage = plan.PlannedStage("tbptt", 1.0, 0.001, 0.0, 2, 2, seconds_per_outer_step=1.0, minutes=1.0)
    monkeypatch.setattr(specialising, "make_plan", lambda *arguments, **options: [stage])
    monkeypatch.setattr(plan, "VALIDATION_STUDENTS", 2)
    monkeypatch.setattr(trainings, "RATES", (0.001, 0.01))


@pytest.mark.usefixtures("_few_students")
def test_a_sweep_counts_everything(tmp_path):
    out, data = tmp_path / "sweep.json", own_data.write_rows(tmp_path / "rows.csv")
    options = ["--data", data, "--trainings", 2, "--steps", 12, "--steps", 6, "--minutes", 1]
    said = run("specialising.sweep", *options, "--rule", "default-1", "--out", out)
    found = json.loads(out.read_text())
    assert set(found["sweeps"]) == {"adamw", "default-1", "specialised"}
    for name, sweeps in found["sweeps"].items():
        assert [own["steps"] for own in sweeps] == [12, 6]
        for own in sweeps:
            assert own["best_held_out"] == min(own["held_out"])
            assert own["seconds"] > own["seconds_before"]
            assert (own["seconds_before"] > 0) == (name != "default-1")
    assert found["target"] == min(own["best_held_out"] for own in found["sweeps"]["adamw"])
    for name, seconds in found["seconds_to_best"].items():
        good = [own for own in found["sweeps"][name] if own["best_held_out"] <= 1.01 * found["target"]]
        assert seconds == min((own["seconds"] for own in good), default=None)
    assert "adamw: time to a model as good as AdamW's best: " in said


@pytest.mark.usefixtures("_few_students")
def test_a_model_a_shop(tmp_path):
    options = ["--known", 2, "--shops", 3, "--steps", 6, "--minutes", 1, "--loss-on", "test"]
    said = run("specialising.shop_models", *options, "--rule", "default-1", "--out", tmp_path / "shops.json")
    found = json.loads((tmp_path / "shops.json").read_text())
    assert set(found["optimizers"]) == {"adamw", "default-1", "specialised"}
    assert all(len(own["held_out"]) == 3 for own in found["optimizers"].values())
    ratios = found["specialised_over"]["adamw"]["held_out"]
    logs = np.log(found["optimizers"]["specialised"]["held_out"]) - np.log(found["optimizers"]["adamw"]["held_out"])
    assert ratios["ratio"] == pytest.approx(np.exp(logs.mean()))
    assert ratios["interval"][0] <= ratios["ratio"] <= ratios["interval"][1]
    assert "s a shop" in said


def test_the_length_from_which_a_sweep_pays():
    sweep = example("specialising.sweep")
    theirs = {"seconds": 47.0, "seconds_before": 7.0, "held_out": [1.0] * 40}
    ours = {"seconds": 120.0, "seconds_before": 100.0, "held_out": [1.0] * 40}
    # Half as long: 40 trainings and 7 trials against 20 and the 100 seconds.
    assert sweep.pays_from(ours, theirs) == pytest.approx(100 / 27)
    assert sweep.pays_from(ours | {"seconds": 200.0}, theirs) is None
