"""Files that nobody vouches for: refused in one sentence, at once, before they can cost memory."""

import hashlib
import json
import os
import resource
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from l2l_opt import CoordinatewiseLSTM, RNNProp, load_rule, save_rule
from l2l_opt.storage.checkpoint_file import load_tree, save_tree
from l2l_opt.storage.safetensors_file import KINDS, FileFormatError, brief, read, serialised


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rule.safetensors"


@pytest.fixture(autouse=True)
def _bounded():
    """Whatever a test reads, it takes neither long nor much memory."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.perf_counter() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def artefact(path, weights=None, **card):
    """Writes an artefact of a small rule with other weights or another card, its digests made to fit."""
    rule = RNNProp(hidden_size=2)
    weights = dict(rule.named_parameters()) | (weights or {})
    metadata = {"format_version": 1, "rule": {"name": "rnnprop", "config": {"hidden_size": 2}}} | card
    detached = {name: weight.detach() for name, weight in weights.items()}
    path.write_bytes(serialised(detached, metadata, kind="rule"))


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def test_what_the_helper_writes_loads(path):
    artefact(path)
    assert load_rule(path).config["hidden_size"] == 2


@pytest.mark.parametrize("length", [21, 2**20, 10**8, 2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_named(length, path):
    path.write_bytes(safetensors(b'{"__metadata__": {}}', length=length))
    with pytest.raises(
        FileFormatError, match=rf"a whole safetensors file; got .*: a header of {length} bytes in a file"
    ):
        load_rule(path)


def test_a_header_beyond_the_limit_is_refused_unread(path):
    path.write_bytes(safetensors(b'{"a": ' + b"[" * 2 * 2**20))
    with pytest.raises(
        FileFormatError, match=r"must not be too large; got a header of 2097158 bytes where 1048576 are"
    ):
        load_rule(path)


@pytest.mark.parametrize("entry", [{"shape": [2**40]}, {"shape": [2**62, 2**62]}, {"data_offsets": [0, 2**43]}])
def test_a_table_that_claims_huge_tensors_is_refused(entry, path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry
    path.write_bytes(safetensors(json.dumps({"a": entry}).encode(), bytes(8)))
    with pytest.raises(FileFormatError, match="an artefact must be a whole safetensors file"):
        load_rule(path)


def test_a_file_of_gigabytes_is_refused_unread(path):
    size = 8 * 2**30
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(safetensors(header))
    os.truncate(path, size + 8 + len(header))
    with pytest.raises(FileFormatError, match=r"must not be too large; got \d+ bytes where 67108864 are the limit"):
        load_rule(path)


def test_a_checkpoint_larger_than_memory_is_refused_unread(path):
    save_tree({"a": 1}, path)
    os.truncate(path, KINDS["checkpoint"].largest_file() + 1)
    with pytest.raises(FileFormatError, match="a checkpoint must not be too large"):
        load_tree(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="a checkpoint must be a regular file; got .*pipe"):
        load_tree(tmp_path / "pipe")


def test_a_pickle_is_not_executed(path, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"rule": Payload()}, path)
    for load in (load_rule, load_tree):
        with pytest.raises(FileFormatError, match="a whole safetensors file"):
            load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("version", [0, 2, True, 1.0, "1", None, [1]])
def test_versions_other_than_this_one_are_named(version, path):
    artefact(path, format_version=version)
    with pytest.raises(FileFormatError, match=r"format_version must be 1; got .* update l2l_opt"):
        load_rule(path)


def nested(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


def test_deep_nesting_is_refused_when_written_and_when_read(path, monkeypatch):
    save_rule(RNNProp(hidden_size=2), path, card={"figures": nested(30)})
    assert load_rule(path).card["figures"] == nested(30)
    with pytest.raises(ValueError, match="nested at most 32 levels deep; got more in what was to be saved"):
        save_rule(RNNProp(hidden_size=2), path, card={"figures": nested(31)})
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, "rule", KINDS["rule"]._replace(deepest=900))
        artefact(path, figures=nested(400))
    with pytest.raises(FileFormatError, match=r"nested at most 32 levels deep; got more in .*rule.safetensors"):
        load_rule(path)


def test_deeper_nesting_than_a_parser_can_take_is_refused(path):
    artefact(path, figures="PLACE")
    with pytest.raises(FileFormatError, match="must be JSON; got"):
        load_rule(resigned(path, lambda text: text.replace('"PLACE"', "[" * 50_000 + "]" * 50_000)))


def resigned(path, change):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = change(header["__metadata__"]["l2l_opt"])
    header["__metadata__"] = {"l2l_opt": text, "metadata_digest": hashlib.sha256(text.encode()).hexdigest()}
    path.write_bytes(safetensors(json.dumps(header).encode(), content[8 + length :]))
    return path


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{'a': 1}", '{"format_version": ' + "9" * 5000 + "}"])
def test_metadata_that_is_no_object_is_named(text, path):
    artefact(path)
    with pytest.raises(FileFormatError, match="an artefact's metadata must be (JSON|a JSON object); got"):
        load_rule(resigned(path, lambda _: text))


def test_text_that_cannot_be_printed_is_refused_when_written_and_when_read(path):
    with pytest.raises(ValueError, match="must be Unicode text; got a lone surrogate"):
        artefact(path, licence="\ud800")
    artefact(path, licence="PLACE")
    with pytest.raises(FileFormatError, match="must be Unicode text; got a lone surrogate"):
        load_rule(resigned(path, lambda text: text.replace("PLACE", "\\ud800")))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_other_dtypes_are_refused_when_written_and_when_read(dtype, path, monkeypatch):
    weights = {"embedding.bias": torch.zeros(2).to(dtype)}
    with pytest.raises(ValueError, match="tensors must be of BF16, F16, F32, F64; got"):
        artefact(path, weights)
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, "rule", KINDS["rule"]._replace(dtypes={"I32", "BOOL", "C64", "F8_E4M3", "F32"}))
        artefact(path, weights)
    with pytest.raises(FileFormatError, match="tensors must be of BF16, F16, F32, F64; got 'embedding.bias' of"):
        load_rule(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_when_written_and_when_read(value, path):
    artefact(path, {"embedding.bias": torch.tensor([0.0, value])})
    with pytest.raises(FileFormatError, match="weights must be finite; got 1 that are not in 'embedding.bias'"):
        load_rule(path)
    rule = RNNProp(hidden_size=2)
    torch.nn.init.constant_(rule.embedding.bias, value)
    with pytest.raises(ValueError, match="a saved rule's weights must be finite; got others in 'rnnprop'"):
        save_rule(rule, path)


def test_a_rule_too_large_to_be_read_back_is_not_written(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, "rule", KINDS["rule"]._replace(largest_file=lambda: 20_000))
        with pytest.raises(ValueError, match="an artefact must not be too large to be read back; got 2.* save less"):
            save_rule(CoordinatewiseLSTM(), path)
    with pytest.raises(ValueError, match="must not be too large to be read back; got a header of"):
        save_rule(RNNProp(hidden_size=2), path, card={"notes": "x" * 2**20})
    assert not path.exists()


@pytest.mark.parametrize("about", [None, "lstm", {"name": "lstm"}, {"name": ["lstm"], "config": {}}, {"config": {}}])
def test_an_artefact_that_names_no_rule_is_named(about, path):
    artefact(path, rule=about)
    with pytest.raises(FileFormatError, match="an artefact must name its rule and config; got"):
        load_rule(path)


@pytest.mark.parametrize(
    "tree",
    [
        None, 3, [], {}, {"tensor": "000009"}, {"tensor": []}, {"dict": [[1]]}, {"dict": [[[], {"value": 1}]]},
        {"list": 3}, {"value": {"a": 1}}, {"code": "print()"}, {"value": 1, "list": []},
    ],
)  # fmt: skip
def test_a_tree_of_another_form_is_named(tree, path):
    path.write_bytes(serialised({}, {"format_version": 1, "tree": tree}, kind="checkpoint"))
    with pytest.raises(FileFormatError, match="a checkpoint's tree must be as save_tree writes it; got"):
        load_tree(path)


def test_messages_stay_short():
    assert len(brief("x" * 10**6)) <= 80
    assert len(brief([[i] for i in range(10**5)])) <= 80
    assert "\n" not in brief("a\nb" * 9)


def test_a_foreign_file_is_refused_by_its_header_alone(tmp_path, monkeypatch):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    monkeypatch.setattr("l2l_opt.storage.safetensors_file.digest", lambda tensors: pytest.fail("tensors were read"))
    with pytest.raises(FileFormatError, match="must be written by l2l_opt"):
        read(tmp_path / "foreign.safetensors", kind="rule", format_version=1)
