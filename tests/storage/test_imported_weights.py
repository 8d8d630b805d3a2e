"""Weights that others have published, in files made here in their layouts: equal updates, or one sentence."""

import itertools
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from l2l_opt import load_rule, save_rule
from l2l_opt.storage import import_weights
from l2l_opt.storage.safetensors_file import FileFormatError
from tests.rules.field_equations import Reference

SHAPES = [(), (5,), (3, 4), (6, 4), (5, 5), (4, 1)]
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
OFFSETS = ([0.15, 0.14, -0.07], [0.01], [0.19, -0.11, -0.06])
NAMES = ("momentum_decays", "rms_decays", "adafactor_decays")


def layers_of(sizes, seed=0):
    """Weight [inputs, outputs] and bias of each layer."""
    generator = np.random.default_rng(seed)
    return [
        (generator.normal(size=(a, b), scale=a**-0.5).astype(np.float32), generator.normal(size=b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    ]


def linear(names, layers):
    return {
        f"{name}.{part}": value
        for name, (weight, bias) in zip(names, layers, strict=True)
        for part, value in (("weight", np.ascontiguousarray(weight.T)), ("bias", bias))
    }


def tree(prefix, layers, *, parts=False):
    found = {f"{prefix}w{index}": weight for index, (weight, _) in enumerate(layers)}
    found |= {f"{prefix}b{index}": bias for index, (_, bias) in enumerate(layers)}
    if parts:
        first = found.pop(f"{prefix}w0")
        found |= {f"{prefix}w0__{k}": part for k, part in enumerate(np.split(first, np.cumsum(GROUPS)[:-1]))}
    return found


def parted(layers):
    found = {f"w0.{k}": part for k, part in enumerate(np.split(layers[0][0], np.cumsum(GROUPS)[:-1]))}
    found["b0"] = layers[0][1]
    for index, (weight, bias) in enumerate(layers[1:]):
        found |= {f"dense_w.{index}": weight, f"dense_b.{index}": bias}
    return found


SMALL, WIDE, DIRECTIONS = layers_of([39, 4, 4, 2]), layers_of([39, 32, 32, 2]), layers_of([30, 8, 8, 3])
DECAYS = {name: np.array(value, dtype=np.float32) for name, value in zip(NAMES, OFFSETS, strict=True)}
FILES = {
    "PyLO's mlp": ("mlp", WIDE, linear(["network.input", "network.linear_0", "network.output"], WIDE), OFFSETS),
    "learned_optimization's mlp": ("mlp", SMALL, DECAYS | tree("nn/~/", SMALL), OFFSETS),
    "PyLO's celo2": ("celo2", DIRECTIONS, linear(["first_layer", "hidden", "output"], DIRECTIONS), None),
    "PyLO's celo2 in parts": ("celo2", DIRECTIONS, parted(DIRECTIONS), None),
    "celo2's tree": ("celo2", DIRECTIONS, tree("ff_mod_stack/~/", DIRECTIONS, parts=True), None),
}


def write(tmp_path, tensors, form):
    path = tmp_path / f"weights.{form}"
    if form == "npz":
        np.savez(path, **tensors)
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_updates_are_those_of_the_published_equations(tmp_path, name, form):
    kind, layers, tensors, offsets = FILES[name]
    path = write(tmp_path, tensors, form)
    # PyLO hands these to its optimizer.
    decays = dict(zip(NAMES, OFFSETS, strict=True)) if name == "PyLO's mlp" else None
    imported = import_weights(path, kind, decays=decays, output_scale=0.01)
    save_rule(imported, tmp_path / "rule.safetensors")
    rule = load_rule(tmp_path / "rule.safetensors").double()
    assert rule.registry_name == kind
    generator = np.random.default_rng(1)
    for shape in SHAPES:
        reference = Reference(kind, layers, *([offsets] if offsets else []))
        p = generator.normal(size=shape)
        params = {"p": torch.tensor(p)}
        state = rule.init_state(params)
        for step in range(3):
            g = generator.normal(size=shape) * 10.0 ** generator.normal(size=shape) * 10.0 ** (step - 1)
            updates, state = rule({"p": torch.tensor(g)}, state, params)
            wanted = reference.update(g, p, size=0.01)
            assert np.abs(wanted).max() > 1e-4
            np.testing.assert_allclose(
                updates["p"].detach().numpy(), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()
            )


def test_offsets_of_decays_are_zero_where_nothing_states_them(tmp_path):
    rule = import_weights(write(tmp_path, FILES["PyLO's mlp"][2], "npz"), "mlp")
    assert not rule.average_offsets.any()
    assert rule.config["hidden_size"] == 32


def without(tensors, *names):
    return {name: value for name, value in tensors.items() if name not in names}


MLP = FILES["learned_optimization's mlp"][2]
FOREIGN = {
    "nothing": {},
    "a layer missing": without(MLP, "nn/~/w1"),
    "a bias missing": without(MLP, "nn/~/b2"),
    "one too many": MLP | {"lstm": np.zeros(3, dtype=np.float32)},
    "two of a name": MLP | {"other/w0": MLP["nn/~/w0"]},
    "other inputs": MLP | {"nn/~/w0": np.zeros((19, 4), dtype=np.float32)},
    "no matrix": MLP | {"nn/~/w0": np.zeros(39, dtype=np.float32)},
    "another kind": FILES["celo2's tree"][2],
    "not finite": MLP | {"nn/~/b0": np.full(4, np.nan, dtype=np.float32)},
    "whole numbers": MLP | {"nn/~/b0": np.zeros(4, dtype=np.int64)},
    "a wrong number of decays": MLP | {"rms_decays": np.zeros(3, dtype=np.float32)},
}


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_weights_of_something_else_are_refused_in_a_sentence(tmp_path, name, form):
    path = write(tmp_path, FOREIGN[name], form)
    with pytest.raises(FileFormatError, match="must .*; got .*, ") as error:
        import_weights(path, "mlp")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("form", ["npz", "safetensors"])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty", "text"])
def test_damaged_files_are_refused_in_a_sentence(tmp_path, form, damage):
    path = write(tmp_path, MLP, form)
    content = path.read_bytes()
    # What a safetensors file holds is listed at its beginning, a zip file's at its end.
    overwritten = content[:8] + b"?" * 8 + content[16:] if form == "safetensors" else content[:-10] + b"?" * 10
    broken = {"cut": content[: len(content) // 2], "overwritten": overwritten, "empty": b"", "text": b"import os"}
    path.write_bytes(broken[damage])
    with pytest.raises(FileFormatError, match=r"must .*; got .*weights\.") as error:
        import_weights(path, "mlp")
    assert "\n" not in str(error.value)


def test_pickles_are_never_loaded(tmp_path):
    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    np.savez(tmp_path / "weights.npz", w0=np.array([Bad()], dtype=object))
    with pytest.raises(FileFormatError, match="must be floating; got 'w0.npy' of O64 .*without pickle"):
        import_weights(tmp_path / "weights.npz", "mlp")


def test_an_array_that_claims_more_than_it_is_takes_no_memory(tmp_path):
    path = tmp_path / "weights.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w0.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(FileFormatError, match="must be whole; got 'w0.npy'"):
        import_weights(path, "mlp")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w0.npy", bytes(65 * 2**20))
    with pytest.raises(FileFormatError, match=r"must not be too large; got 68157440 bytes in 1 arrays"):
        import_weights(path, "mlp")


def test_wrong_arguments(tmp_path):
    path = write(tmp_path, MLP, "npz")
    with pytest.raises(ValueError, match="kind must be one of mlp, celo2; got 'velo'"):
        import_weights(path, "velo")
    with pytest.raises(ValueError, match="decays must be of momentum_decays, .*; got \\['betas'\\]"):
        import_weights(path, "mlp", decays={"betas": [0.9]})
    with pytest.raises(ValueError, match="warm_up"):
        import_weights(path, "mlp", warm_up=0.1)
    with pytest.raises(ValueError, match="sizes of an imported rule must be its weights' own; got hidden_size, leave"):
        import_weights(path, "mlp", hidden_size=4)
    for missing in (tmp_path / "absent.npz", tmp_path):
        with pytest.raises(FileNotFoundError, match="a file of weights must be there; got .*, use another path"):
            import_weights(missing, "mlp")
    for odd in ("", None, 3):
        with pytest.raises(ValueError, match=r"must be a text or a path; got .*, use e\.g\."):
            import_weights(odd, "mlp")


@pytest.mark.parametrize("value", [3, "abc", None, [1, 2, 3j], [1.0, 2.0], [0.0, 0.0, float("nan")], [[1], [2, 3]]])
def test_decays_that_are_no_numbers_are_refused(tmp_path, value):
    path = write(tmp_path, FILES["PyLO's mlp"][2], "npz")
    with pytest.raises(ValueError, match=r"momentum_decays must be a list of 3 finite numbers; got .*, use e\.g\."):
        import_weights(path, "mlp", decays={"momentum_decays": value})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a layer missing", "with no 'nn/~/w1'|with no 'w1'"),
        ("a bias missing", "with no 'b2', import them whole"),
        ("one too many", "with 'lstm' beside them, leave it out"),
        ("two of a name", "with two tensors named 'w0', leave one out"),
        ("another kind", "import them as the kind that they are"),
        ("not finite", "must be finite; .*, export them anew"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, words):
    with pytest.raises(FileFormatError, match=words):
        import_weights(write(tmp_path, FOREIGN[name], "npz"), "mlp")


@pytest.mark.parametrize("name", ["weights.NPZ", "weights", "weights.safetensors"])
def test_a_file_is_what_it_begins_as(tmp_path, name):
    write(tmp_path, MLP, "npz").rename(tmp_path / name)
    assert import_weights(tmp_path / name, "mlp").config["hidden_size"] == 4


def test_files_of_other_programs_are_named(tmp_path):
    torch.save({"w0": torch.zeros(3)}, tmp_path / "new.pt")
    torch.save({"w0": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "one.npy", np.zeros(3))
    for file, words in (
        ("new.pt", "must hold arrays alone; .*, save its numbers as safetensors or npz, without pickle"),
        ("old.pt", "must be in safetensors or npz; got .*, which is a pickle, save its numbers as one of these"),
        ("one.npy", "which is one array"),
    ):
        with pytest.raises(FileFormatError, match=words):
            import_weights(tmp_path / file, "mlp")
