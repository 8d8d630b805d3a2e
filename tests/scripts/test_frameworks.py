"""LearnedOptimizer in training loops of other libraries: it trains as in a loop of one's own, and resumes equal."""

from functools import partial

import pytest
import torch

from scripts.experiments.optimizer import measure_frameworks as frameworks

pytestmark = pytest.mark.slow

OURS = {"options": {"lr": 1.0}}  # skorch has a rate of its own
CLIENTS = {
    "lightning": frameworks.lightning_trainer,
    "accelerate": frameworks.accelerate_loop,
    "skorch": frameworks.skorch_classifier,
    "transformers": partial(frameworks.hugging_face_trainer, schedule="constant"),
}


@pytest.fixture(scope="module")
def alone():
    """A loop of one's own."""
    return frameworks.measure(frameworks.plain_loop, OURS, seed=0)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_trains_as_a_plain_loop_does_and_resumes_equal(client, alone, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = frameworks.measure(CLIENTS[client], OURS, seed=0)
    assert found["resumed"] == found["loss"]
    assert found["said"] == []
    if client == "transformers":  # which shuffles
        assert found["loss"] == pytest.approx(alone["loss"], rel=0.5)
    else:
        assert found["loss"] == alone["loss"]


def test_the_default_of_transformers_brings_the_rate_down_to_nothing_without_a_warning(alone, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    linear = partial(frameworks.hugging_face_trainer, schedule="linear")
    found = frameworks.measure(linear, {}, seed=0)
    assert found["resumed"] == found["loss"]
    assert found["said"] == []
    assert alone["loss"] < found["loss"] < 0.5


def test_a_client_with_a_rate_of_its_own_is_shown_what_ours_is():
    found = frameworks.measure(frameworks.skorch_classifier, {}, seed=0)
    (said,) = found["said"]
    assert said.startswith("lr multiplies the learned update and is 1.0 as meta-trained; got 0.01")
    assert found["loss"] > 2


@pytest.mark.parametrize("schedule", ["OneCycleLR(max_lr=1.0)", "CyclicLR(.1, 1.0)"])
def test_schedules_that_cycle_a_momentum_say_so_and_resume_equal(schedule):
    train = partial(frameworks.plain_loop, schedule=lambda optimizer: frameworks.SCHEDULES[schedule](optimizer, 1.0))
    found = frameworks.measure(train, {}, seed=0)
    assert found["resumed"] == found["loss"] < 0.5
    assert found["said"] == ["momentum in a group has no effect"]


@pytest.mark.filterwarnings("ignore")
def test_fsdp1_of_accelerate_is_refused_with_the_way_out():
    refusal = frameworks.flat_shards()
    assert "use FSDP2 (torch.distributed.fsdp.fully_shard)" in refusal
    assert f"> {refusal}" in frameworks.PAGE.read_text()


def test_a_client_that_is_not_there_has_its_reason_in_the_table(monkeypatch):
    missing = frameworks.Client("no-such-package", "Trainer", frameworks.plain_loop)
    monkeypatch.setattr(frameworks, "CLIENTS", [missing, frameworks.Client("torch", "a loop", frameworks.plain_loop)])
    rows = frameworks.measure_clients(1)
    assert rows[1]["ratio"] > 1
    assert rows[1]["version"] == torch.__version__
    text = frameworks.tables({"clients": rows, "schedules": [], "accelerate with FSDP1": ""})["clients"]
    assert "| no-such-package | not installed | Trainer |  |  |  |  | PackageNotFoundError: " in text


def test_the_page_is_what_its_script_writes_from_the_results():
    assert frameworks.PAGE.read_text() == frameworks.page()
