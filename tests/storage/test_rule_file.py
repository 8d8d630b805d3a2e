"""Artefacts and checkpoints: what is written is what is read, and nothing else is."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from l2l_opt import CoordinatewiseLSTM, RNNProp, load_rule, save_rule
from l2l_opt.rules import RULES
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.files import write_atomically
from l2l_opt.storage.safetensors_file import FileFormatError, digest
from tests.conftest import small_rule


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "rule.safetensors"
    save_rule(RNNProp(hidden_size=4), path, card={"task": "digits-mlp", "horizon": 100})
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES.names())
def test_a_rule_comes_back_bit_for_bit(name, dtype, tmp_path):
    rule = small_rule(name).to(dtype)
    written = save_rule(rule, tmp_path / "rule.safetensors")
    loaded = load_rule(tmp_path / "rule.safetensors")
    assert type(loaded) is type(rule)
    assert loaded.config == rule.config
    assert written == digest(dict(loaded.named_parameters())) == loaded.card["digest"]
    for (key, a), (other, b) in zip(rule.named_parameters(), loaded.named_parameters(), strict=True):
        assert key == other
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_an_artefact_describes_itself_and_holds_phi_only(artefact):
    with safe_open(artefact, framework="pt") as file:
        card = json.loads(file.metadata()["l2l_opt"])
        assert set(file.keys()) == {key for key, _ in RNNProp(hidden_size=4).named_parameters()}
    assert card["format_version"] == 1
    assert card["rule"]["name"] == "rnnprop"
    assert card["rule"]["config"]["hidden_size"] == 4
    assert card["task"] == "digits-mlp"
    assert card["horizon"] == 100


def test_loading_changes_no_global_random_state(artefact):
    before = torch.random.get_rng_state()
    load_rule(artefact)
    assert torch.equal(before, torch.random.get_rng_state())


def test_digest_sees_values_names_shapes_and_dtypes():
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"a": torch.full((2, 3), 1e-30)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).double()},
    ]
    assert digest(base) == digest({"a": torch.zeros(2, 3)})
    assert len({digest(tree) for tree in [base, *others]}) == 5


def rewrite_header(path, change):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_a_truncated_artefact_is_named(artefact):
    artefact.write_bytes(artefact.read_bytes()[:-40])
    with pytest.raises(FileFormatError, match="an artefact must be a whole safetensors file; got .*rule.safetensors"):
        load_rule(artefact)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 60])
def test_a_file_of_another_kind_is_named(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="an artefact must be a whole safetensors file"):
        load_rule(path)


def test_a_flipped_bit_in_phi_is_found(artefact):
    content = bytearray(artefact.read_bytes())
    content[-5] ^= 1
    artefact.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="tensors must match its digest; got .*damaged"):
        load_rule(artefact)


def test_a_changed_card_is_found(artefact):
    rewrite_header(artefact, lambda metadata: metadata.update(l2l_opt=metadata["l2l_opt"].replace("digits", "fashion")))
    with pytest.raises(FileFormatError, match="metadata must match its digest"):
        load_rule(artefact)


def test_a_foreign_safetensors_file_is_named(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(FileFormatError, match="must be written by l2l_opt; got .*foreign"):
        load_rule(tmp_path / "foreign.safetensors")


def test_a_future_format_is_named(artefact, monkeypatch):
    monkeypatch.setattr("l2l_opt.storage.rule_file.FORMAT_VERSION", 2)
    save_rule(CoordinatewiseLSTM(hidden_size=2), artefact)
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match="format_version must be 1; got 2 .*update l2l_opt"):
        load_rule(artefact)


def test_a_checkpoint_is_not_an_artefact(tmp_path):
    save_tree({"a": 1}, tmp_path / "x.safetensors")
    with pytest.raises(FileFormatError, match="an artefact must say that it is one; got a 'checkpoint'"):
        load_rule(tmp_path / "x.safetensors")


def test_an_unregistered_rule_is_named(artefact, monkeypatch):
    monkeypatch.delitem(RULES._factories, "rnnprop")
    with pytest.raises(ValueError, match="the rule of an artefact must be registered; got 'rnnprop'"):
        load_rule(artefact)


def test_weights_that_do_not_fit_are_named(tmp_path):
    rule = RNNProp(hidden_size=4)
    rule.config["hidden_size"] = 5
    save_rule(rule, tmp_path / "x.safetensors")
    with pytest.raises(FileFormatError, match="weights must fit its rule 'rnnprop'"):
        load_rule(tmp_path / "x.safetensors")


def test_no_such_file_names_the_shipped_ones(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="a rule must be a shipped name or the path of an artefact; got .*nothing"
    ):
        load_rule(tmp_path / "nothing")


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {
        "tensors": [torch.randn(3), torch.zeros(0, 2), torch.tensor(1, dtype=torch.int64), torch.tensor([True])],
        "numbers": {0: 1.5, 1: float("nan"), "x": float("inf"), "y": -3},
        "more": [None, True, "word", [], {}],
        "bytes": torch.Generator().manual_seed(3).get_state(),
    }
    save_tree(tree, tmp_path / "tree.safetensors")
    back = load_tree(tmp_path / "tree.safetensors")
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tree["tensors"], back["tensors"], strict=True))
    assert torch.equal(tree["bytes"], back["bytes"])
    assert repr(back["numbers"]) == repr(tree["numbers"])
    assert back["more"] == tree["more"]


def test_a_tree_of_other_things_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint must hold tensors and plain values; got set"):
        save_tree({"a": {1, 2}}, tmp_path / "tree.safetensors")
    assert not list(tmp_path.iterdir())


def test_views_of_one_storage_are_saved_by_value(tmp_path):
    base = torch.arange(6.0)
    save_tree([base[:3], base[3:], base.expand(2, 6)], tmp_path / "tree.safetensors")
    first, second, third = load_tree(tmp_path / "tree.safetensors")
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [3, 4, 5]
    assert third.shape == (2, 6)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_artefact_intact(artefact):
    """A file-size limit stands for the full disk."""
    before = artefact.read_bytes()
    script = f"""
import resource, signal
from l2l_opt import RNNProp, save_rule
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_rule(RNNProp(), {str(artefact)!r})
except OSError as error:
    print("refused", error.errno)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("refused")
    assert artefact.read_bytes() == before
    assert [p.name for p in artefact.parent.iterdir()] == [artefact.name]


PLAIN_LOOP = """
import sys, torch
from l2l_opt import LearnedOptimizer
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
inputs, targets = torch.randn(64, 5), torch.randint(3, (64,))
rule = sys.argv[1]
{make}
optimizer = LearnedOptimizer(model.parameters(), rule, num_steps=30)
for _ in range(30):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    print(loss.item().hex())
"""


@pytest.mark.slow
def test_saved_loaded_in_a_new_process_and_run_in_the_same_loop_bit_for_bit(tmp_path):
    path = tmp_path / "rule.safetensors"
    make = "state = torch.random.get_rng_state(); torch.manual_seed(5); from l2l_opt import RNNProp, save_rule; "
    make += "path = rule; rule = RNNProp(); save_rule(rule, path); torch.random.set_rng_state(state)"
    losses = []
    for preparation in (make, ""):
        script = PLAIN_LOOP.format(make=preparation)
        result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
        losses.append(result.stdout.split())
    assert len(losses[0]) == 30
    assert len(set(losses[0])) == 30
    assert losses[0] == losses[1]
