"""The cache: what it keeps comes back exactly; what is damaged it computes anew."""

import math

import pytest
import torch

from l2l_opt.evaluation.cache import Cache

KEY = {"kind": "run", "task": "quadratics", "horizon": 10, "seeds": [0, 1]}


class Counter:
    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_a_result_is_computed_once_and_comes_back_exactly(tmp_path):
    compute = Counter({"curves": torch.rand(4, 2, dtype=torch.float64), "losses": [[0.1, math.inf]], "lr": 0.1 + 0.2})
    first = Cache(tmp_path / "new").get(KEY, compute)
    again = Cache(tmp_path / "new").get(dict(reversed(KEY.items())), compute)
    assert compute.calls == 1
    assert torch.equal(first["curves"], again["curves"])
    assert (again["losses"], again["lr"]) == ([[0.1, math.inf]], 0.1 + 0.2)


@pytest.mark.parametrize("changed", [{"horizon": 11}, {"seeds": [0, 2]}, {"task": "quadratics:dim=3"}, {"more": None}])
def test_another_key_is_another_result(tmp_path, changed):
    cache, compute = Cache(tmp_path), Counter(1)
    cache.get(KEY, compute)
    cache.get(KEY | changed, compute)
    assert compute.calls == 2


def damage(content, how):
    return {"cut": content[:-7], "empty": b"", "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]}[how]


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_file_is_computed_anew(tmp_path, how):
    cache, compute = Cache(tmp_path), Counter({"curves": torch.arange(5.0)})
    cache.get(KEY, compute)
    path = cache.path(KEY)
    path.write_bytes(damage(path.read_bytes(), how))
    assert torch.equal(cache.get(KEY, compute)["curves"], torch.arange(5.0))
    assert compute.calls == 2
    cache.get(KEY, compute)
    assert compute.calls == 2, "the damaged file has been replaced"


def test_a_file_of_another_key_in_its_place_is_not_used(tmp_path):
    cache = Cache(tmp_path)
    cache.get(KEY, Counter("right"))
    other = KEY | {"horizon": 99}
    cache.path(other).write_bytes(cache.path(KEY).read_bytes())
    assert cache.get(other, Counter("other")) == "other"


def test_without_a_folder_nothing_is_kept():
    compute = Counter(3)
    assert [Cache(None).get(KEY, compute) for _ in range(2)] == [3, 3]
    assert compute.calls == 2
