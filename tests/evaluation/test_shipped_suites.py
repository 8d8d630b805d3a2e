"""The suites: what is on them can be run, and what is evaluated on is nowhere else."""

import json

import pytest
import torch

from l2l_opt.evaluation import provenance
from l2l_opt.evaluation.suites import load_suite
from l2l_opt.inner_loop.fresh_student import fresh_student
from l2l_opt.randomness import Stream
from l2l_opt.registry import parse_spec
from l2l_opt.tasks import TASKS, make_task
from l2l_opt.tasks.mixture import make_tasks
from scripts.experiments.held_out import suite_digest
from scripts.experiments.specialise.measure_specialise import FAMILIES

META_TRAINING = {
    "quadratics",
    "least-squares",
    "digits-mlp",
    "fashion-mlp",
    "clusters-mlp",
    "teacher-mlp",
    "digits-conv",
    "fashion-conv",
    "digits-autoencoder",
    "fashion-autoencoder",
    "novel-rnn",
    "novel-attention",
}
ON_DISK = {"mnist-mlp", "fashion-full-mlp", "cifar10-conv"}
SHARED = {
    f"l2l_opt.tasks.{name}"
    for name in (
        *("base", "examples", "generated", "module_task", "noisy", "probe", "student_module", "substitutes"),
        *("policies.control", "policies.policy", "policies.policy_gradient", "text.corpus"),
    )
}
"""What makes a task of a module, an environment or a text, whichever these are."""


def suite(name):
    return list(load_suite(name).tasks)


def names(specs):
    return [parse_spec(spec)[0] for spec in specs]


def test_there_are_enough_tasks_and_none_twice():
    assert 8 <= len(suite("validation")) <= 10
    assert len(suite("seen")) >= 14
    assert len(set(names(suite("seen")))) == len(suite("seen"))


def test_what_is_evaluated_on_is_nowhere_else():
    validation, seen = set(names(suite("validation"))), set(names(suite("seen")))
    assert not seen & (validation | META_TRAINING)
    assert validation - META_TRAINING == {"iris-mlp", "rings-gated", "digits-linear"}
    # Every family is on one list.
    assert set(TASKS.names()) >= seen | validation | META_TRAINING | ON_DISK


@pytest.mark.parametrize("spec", suite("validation") + suite("seen"))
def test_every_task_runs_with_batches_of_16_to_128_and_is_small(spec):
    family = make_task(spec)
    generator = torch.Generator().manual_seed(0)
    data = family.sample(generator)
    params = family.init_params(data, generator)
    batch = family.sample_batch(data, generator)
    assert 16 <= len(batch["index"]) <= 128
    assert torch.isfinite(family.loss(params, data, batch))
    assert sum(value.numel() for value in params.values()) < 50_000


def rooms_of(specs):
    """Files of layers, data and environments that tasks are written in."""
    code = {name for spec in specs for name in provenance.imported(provenance.task_code(spec), without=SHARED)}
    return {name for name in code if name.startswith("l2l_opt.tasks.")}


def test_neither_data_nor_layers_of_the_held_out_suite_are_anywhere_else():
    elsewhere = [*suite("validation"), *suite("validation-sizes"), *suite("seen"), *META_TRAINING, *FAMILIES.values()]
    own, others = rooms_of(suite("held-out")), rooms_of(elsewhere)
    assert {"l2l_opt.tasks.layers.transformer", "l2l_opt.tasks.images.drawn"} < own
    assert {"l2l_opt.tasks.layers.attention", "l2l_opt.tasks.images.datasets"} < others
    assert not own & others


def test_the_held_out_suite_has_its_sizes_and_horizons():
    held_out = load_suite("held-out")
    known = {own["task"]: own for own in json.loads(suite_digest.OUT.read_text())["tasks"]}
    sizes = {task: known[task]["parameters"] for task in held_out.tasks}
    large = [task for task, size in sizes.items() if 300_000 <= size <= 1_000_000]
    assert len(held_out.tasks) >= 16
    assert len(large) >= 4
    for task, horizons in held_out.horizons.items():
        assert horizons == ((500,) if task in large else (500, 2000, 10_000)[: len(horizons)])
        assert task in large or sizes[task] <= 100_000
    assert sum(10_000 in own for own in held_out.horizons.values()) >= 8


@pytest.mark.parametrize("spec", suite("validation-sizes"))
def test_every_task_of_other_sizes_runs(spec):
    tasks = make_tasks(spec)
    student = fresh_student(tasks, seed=0, stream=Stream.TUNING)
    assert torch.isfinite(student.loss(student.params, student.batch()))
    assert sum(value.numel() for value in student.params.values()) <= 1_000_000


@pytest.mark.slow
def test_the_held_out_suite_is_what_its_digest_records():
    known = json.loads(suite_digest.OUT.read_text())
    found = suite_digest.digest_of(load_suite("held-out"))
    assert suite_digest.differences(known, found) == []
    assert known["sha256"] == suite_digest.sha256(known)


def test_a_digest_shows_what_changed():
    known = json.loads(suite_digest.OUT.read_text())
    changed = json.loads(json.dumps(known))
    changed["tasks"][3]["reporting"]["first_losses"][0] *= 1.01
    changed["tasks"][4]["horizons"] = [500]
    changed["seeds"]["seed"] += 1e-9
    found = suite_digest.differences(known, changed)
    assert [text.split(":")[0] for text in found] == [
        "/seeds/seed",
        "/tasks/3/reporting/first_losses/0",
        "/tasks/4/horizons",
    ]
    assert suite_digest.sha256(known) != suite_digest.sha256(changed)
