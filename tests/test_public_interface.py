"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import l2l_opt

NAMES = [
    "LearnedOptimizer", "UpdateRule", "CoordinatewiseLSTM", "RNNProp", "MetaTrainer", "TruncatedBackprop",
    "FullES", "PES", "NRES",
    "TaskFamily", "ModuleTask", "load_rule", "save_rule", "list_pretrained", "register_rule", "register_task",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_documented(name):
    value = getattr(l2l_opt, name)
    assert name in l2l_opt.__all__
    assert name in dir(l2l_opt)
    assert value.__doc__
    assert len(value.__doc__.strip().splitlines()[0]) > 15


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Magic'"):
        _ = l2l_opt.Magic


def modules_after(statement):
    script = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_package_imports_nothing():
    assert "torch" not in modules_after("import l2l_opt")


@pytest.mark.slow
def test_using_a_rule_imports_no_meta_training_no_tensorboard_no_click():
    modules = modules_after("from l2l_opt import LearnedOptimizer, load_rule; load_rule('default-1')")
    assert "l2l_opt.optimizer.learned_optimizer" in modules
    for name in (
        "click",
        "tensorboard",
        "sklearn",
        "matplotlib",
        "rich",
        "scipy",
        "lightning",
        "accelerate",
        "l2l_opt.meta_training.trainer",
        "l2l_opt.inner_loop.unroll",
        "l2l_opt.tasks",
    ):
        assert name not in modules, name
