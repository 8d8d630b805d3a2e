"""Batches that are left where they were drawn, and moved to a device many at once."""

import torch

from l2l_opt.tasks.drawing import left_on_host, moved, placed
from tests.conftest import small_family


def test_a_family_hands_out_batches_on_its_device_unless_they_are_left():
    family = small_family()
    family.device = torch.device("meta")
    generator = torch.Generator().manual_seed(0)
    assert family.sample_batch({}, generator)["index"].is_meta
    with left_on_host():
        left = family.sample_batch({}, generator)["index"]
        assert left.device.type == "cpu"
        assert placed(left, family.device) is left
    assert placed(left, family.device).is_meta


def test_batches_are_moved_by_one_copy_of_each_of_their_tensors(monkeypatch):
    """The meta device stands for a GPU."""
    batches = [{"index": torch.full((3, 2), step), "seed": torch.tensor([1, 2, step])} for step in range(4)]
    copies, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: copies.append(self) or to(self, *a, **k))
    found = moved(batches, torch.device("meta"))
    assert [tuple(copy.shape) for copy in copies] == [(4, 3, 2), (4, 3)]
    assert all(torch.equal(copies[0][step], batch["index"]) for step, batch in enumerate(batches))
    assert [(own["index"].shape, own["seed"].shape) for own in found] == [((3, 2), (3,))] * 4
    assert found[0]["index"].is_meta
    assert moved([], torch.device("meta")) == []


def test_what_lies_on_the_device_already_stays_where_it_is():
    batches = [{"inputs": torch.ones(2, 3, device="meta")} for _ in range(3)]
    assert all(one is other for one, other in zip(moved(batches, torch.device("meta")), batches, strict=True))


def test_on_a_cpu_they_stay_what_they_are():
    batches = [{"index": torch.ones(2)}, {"index": torch.zeros(2)}]
    assert all(one is other for one, other in zip(moved(batches, torch.device("cpu")), batches, strict=True))
