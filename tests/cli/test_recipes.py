"""--config: options from a file; and the shipped recipes, which are those on the cards of shipped rules."""

import json
import shlex

import pytest
from click.core import ParameterSource

from l2l_opt.cli.few_shot_meta_train import meta_train as few_shot_meta_train
from l2l_opt.cli.meta_train import meta_train
from l2l_opt.pretrained import list_pretrained, list_recipes
from l2l_opt.storage.rule_file import load_rule
from tests.cli.test_errors import error_line, run  # noqa: F401
from tests.cli.test_journeys import digests, l2l_opt

RECIPE = """
rule = "rnnprop:hidden_size=2"
task = "quadratics:dim=2"
outer-steps = 3
horizon = 10
truncation_length = 5
students = 2
staggered = true
meta-lr = 1e-2
validation-students = 2
"""
SAME = [
    *("--rule", "rnnprop:hidden_size=2", "--task", "quadratics:dim=2", "--outer-steps", 3, "--horizon", 10),
    *("--truncation-length", 5, "--students", 2, "--staggered", "--meta-lr", 0.01, "--validation-students", 2),
]


def options_of(*arguments, command=meta_train):
    """Parsed by the real command, less those that a run's result does not depend on."""
    found = command.make_context("meta-train", [str(argument) for argument in arguments]).params
    apart = {"out", "resume", "allow_changed_options", "minutes", "checkpoint_every", "as_json", "nproc"}
    return {key: value for key, value in found.items() if key not in apart}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_the_same_as_its_options_and_the_command_line_overrides_it(recipe):
    assert options_of("--config", recipe) == options_of(*SAME)
    for arguments in (["--config", recipe, "--meta-lr", 0.5], ["--meta-lr", 0.5, "--config", recipe]):
        assert options_of(*arguments) == options_of(*SAME, "--meta-lr", 0.5)
    assert options_of("--config", recipe, "--no-staggered")["staggered"] is False
    assert options_of("--config", recipe) != options_of()


def test_a_run_is_a_recipe_for_another(recipe, tmp_path):
    l2l_opt("meta-train", "--config", recipe, "--out", tmp_path / "a")
    l2l_opt("meta-train", *SAME, "--out", tmp_path / "b")
    for source in (tmp_path / "a" / "run.json", tmp_path / "a"):
        assert options_of("--config", source) == options_of(*SAME)
    l2l_opt("meta-train", "--config", tmp_path / "a", "--resume", "--out", tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert load_rule(tmp_path / "a").card["provenance"]["options"]["meta_lr"] == 0.01


def test_few_shot_runs_have_recipes_too(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('method = "anil:lr=0.2"\nmeta-batch = 7\n')
    found = options_of("--config", path, command=few_shot_meta_train)
    assert (found["method"], found["meta_batch"], found["inner_steps"]) == ("anil:lr=0.2", 7, 1)


def test_what_was_called_judged_on_is_still_read(tmp_path):
    assert options_of("--judged-on", "test") == options_of("--loss-on", "test")
    (tmp_path / "run.json").write_text(json.dumps({"options": {"judged_on": "test", "clip_loss": None}}))
    assert options_of("--config", tmp_path / "run.json") == options_of("--loss-on", "test")
    assert "judged" not in l2l_opt("meta-train", "--help").stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("outer-step = 3", ["'outer-step'", "recipe.toml", "did you mean 'outer_steps'?"]),
        ("qqq = 3", ["'qqq'", "use one of", "meta_lr"]),
        ("config = 'other.toml'", ["'config'"]),
        ("outer-steps = 'many'", ["--outer-steps", "'many'", "integer"]),
        ("outer-steps = 2.5", ["--outer-steps", "'2.5'", "integer"]),
        ("outer-steps = true", ["--outer-steps", "'True'", "integer"]),
        ("outer-steps = 0", ["--outer-steps", "0"]),
        ("staggered = 'perhaps'", ["--staggered", "'perhaps'", "boolean"]),
        ("meta-loss = 'product'", ["--meta-loss", "'product'", "'linear'"]),
        ("students = [1, 2]", ["single value", "students = [1, 2]"]),
        ("[students]\nnumber = 1", ["single value", "students"]),
        ("rule = x", ["TOML", "recipe.toml", "line 1"]),
        ("truncation-length = 7", ["truncation_length must divide horizon", "7 and 100"]),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(run, tmp_path, content, words):  # noqa: F811
    (tmp_path / "recipe.toml").write_text(content)
    code, _, err = run("meta-train", "--config", "recipe.toml")
    line = error_line(err)
    assert code == 2, line
    for word in words:
        assert word in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [None, "{}", "[1]", '{"options": 3}', "\0"])
def test_what_is_no_recipe_is_named(run, tmp_path, content):  # noqa: F811
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    code, _, err = run("meta-train", "--config", "run.json")
    line = error_line(err)
    assert code == 2, line
    for word in ("a recipe must be", "'run.json'", "default-1"):
        assert word in line


def test_every_shipped_rule_has_the_recipe_that_its_card_states():
    # The others have the weights of a rule that has one, or come from several runs, which their cards name.
    assert set(list_pretrained()) - set(list_recipes()) == {"default-3", "default-4", "small-data-1", "lstm-2"}
    for name in list_recipes():
        provenance = load_rule(name).card["provenance"]
        (stage,) = provenance.get("stages", [provenance])
        _, _, *arguments = shlex.split(stage["command"])
        assert options_of("--config", name) == options_of(*arguments), name
        context = meta_train.make_context("meta-train", ["--config", name])
        for key in ("task", "horizon", "truncation_length", "estimator", "seed"):
            assert context.get_parameter_source(key) is ParameterSource.DEFAULT_MAP, (name, key)


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_run(name, tmp_path):
    smaller = ["--outer-steps", 1, "--students", 2, "--validation-students", 2, "--validation-horizon", 5]
    l2l_opt("meta-train", "--config", name, *smaller, "--validate-every", 0, "--out", tmp_path / name)
    assert isinstance(load_rule(tmp_path / name), type(load_rule(name)))
