"""That what can be compiled is compiled: an optional extension fails in silence, and the first step names the cost."""

import shutil
import warnings

import pytest
import torch

from l2l_opt import LearnedOptimizer
from l2l_opt.kernels import native
from l2l_opt.optimizer import stepping


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_kernels_are_built_where_there_is_a_compiler():
    if native.status.startswith("compiled kernels are switched off"):
        pytest.skip(native.status)
    assert native.library is not None, native.status
    assert native.describe().startswith("compiled, ")


@pytest.fixture
def _not_built(monkeypatch):
    monkeypatch.setattr(native, "status", native.NOT_BUILT)
    stepping._warn_of_slow_steps.cache_clear()
    yield
    stepping._warn_of_slow_steps.cache_clear()


@pytest.mark.usefixtures("_not_built")
def test_the_first_step_without_kernels_names_their_cost_once():
    weight = torch.nn.Parameter(torch.ones(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer = LearnedOptimizer([weight])
            weight.grad = torch.ones(3)
            optimizer.step()
    (warning,) = caught
    assert str(warning.message).startswith("compiled kernels were not built: no C++ compiler was found")
    assert "a step takes 6 to 50 times as long: install GCC or Clang" in str(warning.message)
    assert warning.filename == __file__
