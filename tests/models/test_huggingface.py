"""Tests of weight files: all formats give the same tree, and every defect raises one line that names it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from etp_jax.errors import EtpError
from etp_jax.models import huggingface, weights
from etp_jax.models.huggingface import load_bert, read_config, resolve

Tensors = dict[str, np.ndarray]
KEY = "encoder.layer.0.output.dense.weight"
FLAX_KEY = "encoder/layer/0/output/dense/kernel"


def same(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def save(folder: Path, tensors: Tensors) -> None:
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors"
    )


def fails(folder: Path, message: str) -> None:
    """Loading fails with one line that names the folder and matches."""
    with pytest.raises(EtpError, match=message) as caught:
        load_bert(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- forms --------------------------------------------------------------------------------------------------------


def test_names_shapes_and_digest(golden_folder: Path, golden_tensors: Tensors) -> None:
    config, params, digest = load_bert(golden_folder)
    query = golden_tensors["encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(params["encoder"]["layer"]["1"]["attention"]["self"]["query"]["kernel"], query.T)
    assert set(params) == {"embeddings", "encoder"}, "the pooler is known and dropped"
    assert config.num_hidden_layers == 2 and config.dropout == 0.0
    assert digest == hashlib.sha256((golden_folder / "model.safetensors").read_bytes()).hexdigest()


def test_prefix_heads_buffers_and_old_names(golden_folder: Path, golden_tensors: Tensors) -> None:
    _, expected, _ = load_bert(golden_folder)

    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    tensors = {f"bert.{old(name)}": value for name, value in golden_tensors.items()}
    tensors["bert.embeddings.position_ids"] = np.arange(20)[None]
    tensors["cls.predictions.bias"] = np.zeros(60, np.float32)
    tensors["cls.seq_relationship.weight"] = np.zeros((2, 24), np.float32)
    save(golden_folder, tensors)
    assert same(load_bert(golden_folder)[1], expected)


def test_flax_msgpack(golden_folder: Path) -> None:
    _, expected, _ = load_bert(golden_folder)
    (golden_folder / "model.safetensors").unlink()
    file = golden_folder / "flax_model.msgpack"
    pooler = {"dense": {"kernel": np.zeros((24, 24), np.float32), "bias": np.zeros(24, np.float32)}}
    for tree in (
        {**expected, "pooler": pooler},
        {"bert": {**expected, "pooler": pooler}, "cls": {"bias": np.zeros(2)}},
    ):
        file.write_bytes(serialization.msgpack_serialize(tree))
        assert same(load_bert(golden_folder)[1], expected)


@pytest.mark.optional
def test_pytorch_bin(golden_folder: Path, golden_tensors: Tensors) -> None:
    torch = pytest.importorskip("torch")
    _, expected, _ = load_bert(golden_folder)
    (golden_folder / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(value) for name, value in golden_tensors.items()}
    torch.save(tensors, golden_folder / "pytorch_model.bin")
    assert same(load_bert(golden_folder)[1], expected)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_half_precision_becomes_float32(golden_folder: Path, golden_tensors: Tensors, dtype: Any) -> None:
    _, exact, _ = load_bert(golden_folder)
    save(golden_folder, {name: value.astype(dtype) for name, value in golden_tensors.items()})
    _, params, _ = load_bert(golden_folder)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert same(params, jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), exact))


@pytest.mark.parametrize("prefix", ["", "bert.", "module.", "module.bert.", "0.auto_model.", "model.text.bert."])
def test_prefixes_and_heads(golden_folder: Path, golden_tensors: Tensors, prefix: str) -> None:
    _, expected, _ = load_bert(golden_folder)
    outer = prefix.removesuffix("bert.")
    heads = ("classifier.weight", "classifier.bias", "cls.predictions.bias", "qa_outputs.weight", "crf.transitions")
    tensors = {prefix + name: value for name, value in golden_tensors.items()}
    save(golden_folder, tensors | {outer + head: np.zeros(2, np.float32) for head in heads})
    assert same(load_bert(golden_folder)[1], expected)


def halves(tensors: Tensors) -> list[Tensors]:
    names = sorted(tensors)
    return [{name: tensors[name] for name in part} for part in (names[::2], names[1::2])]


def write_shards(folder: Path, tensors: Tensors) -> Path:
    """Replaces `model.safetensors` by two shards and their index."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    places = {}
    for number, part in enumerate(halves(tensors), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_shards(golden_folder: Path, golden_tensors: Tensors) -> None:
    _, expected, _ = load_bert(golden_folder)
    write_shards(golden_folder, golden_tensors)
    _, params, digest = load_bert(golden_folder)
    assert same(params, expected)
    second = golden_folder / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    assert load_bert(golden_folder)[2] != digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update({KEY: "../model-00001-of-00002.safetensors"}),
            r"'\.\./model.*' is not the name of a file",
        ),
        (lambda m: m.update({KEY: "/etc/passwd"}), "names '/etc/passwd'; shards are .safetensors files"),
        (lambda m: m.update({KEY: "pytorch_model.bin"}), "names 'pytorch_model.bin'; shards are .safetensors files"),
        (lambda m: m.update({KEY: "model-3.safetensors"}), "names 'model-3.safetensors', which is not in the folder"),
        (lambda m: m.update({KEY: 3}), "weight_map does not name the file of each tensor"),
        (lambda m: m.update({"more": m[KEY]}), "the tensor more is in none of the shards"),
    ],
    ids=["above", "absolute", "pickle", "missing", "number", "tensor"],
)
def test_bad_index(
    golden_folder: Path, golden_tensors: Tensors, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    index = write_shards(golden_folder, golden_tensors)
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))
    fails(golden_folder, message)


def test_tensor_in_two_shards(golden_folder: Path, golden_tensors: Tensors) -> None:
    write_shards(golden_folder, golden_tensors)
    safetensors.numpy.save_file(golden_tensors, golden_folder / "model-00002-of-00002.safetensors")
    fails(golden_folder, "is in another shard too")


@pytest.mark.optional
@pytest.mark.parametrize("form", ["wrapped", "parallel", "shards", "bfloat16", "checkpoint", "model"])
def test_forms_of_pytorch_files(golden_folder: Path, golden_tensors: Tensors, form: str) -> None:
    torch = pytest.importorskip("torch")
    _, expected, _ = load_bert(golden_folder)
    (golden_folder / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(value) for name, value in golden_tensors.items()}
    file = golden_folder / "pytorch_model.bin"
    match form:
        case "wrapped":
            torch.save({"state_dict": tensors, "epoch": 3, "optimizer": {"lr": 0.1}}, file)
        case "model":
            torch.save({"model": tensors, "epoch": 3}, file)
        case "parallel":
            heads = {"module.classifier.weight": torch.ones(2), "module.bert.pooler.dense.bias": torch.ones(2)}
            torch.save({f"module.bert.{name}": tensor for name, tensor in tensors.items()} | heads, file)
        case "checkpoint":
            params = {f"model.bert.{name}": torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
            torch.save({"model_state_dict": params, "global_step": 7}, file)
        case "bfloat16":
            torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, file)
            rounded = {name: tensor.bfloat16().float().numpy() for name, tensor in tensors.items()}
            save(golden_folder, rounded)
            expected = load_bert(golden_folder)[1]
            (golden_folder / "model.safetensors").unlink()
        case "shards":
            places = {}
            for number, part in enumerate(halves(tensors), 1):
                torch.save(part, golden_folder / f"pytorch_model-{number}.bin")
                places |= dict.fromkeys(part, f"pytorch_model-{number}.bin")
            (golden_folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(load_bert(golden_folder)[1], expected)


# --- defects ------------------------------------------------------------------------------------------------------


def prefixed(tensors: Tensors, prefix: str, others: Tensors) -> None:
    """Puts all tensors behind a prefix, and others beside them."""
    new = {prefix + name: value for name, value in tensors.items()} | others
    tensors.clear()
    tensors.update(new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"lacks the tensor {FLAX_KEY}"),
        (lambda t: t.update({KEY: t[KEY][:-1]}), rf"{FLAX_KEY} has shape \(40, 23\), config.json says \(40, 24\)"),
        (lambda t: t.update({"encoder.extra.weight": t[KEY]}), "unexplained tensor encoder/extra/kernel"),
        (lambda t: t.update({"roberta.lm.bias": t[KEY]}), "unexplained tensor roberta/lm/bias"),
        (lambda t: t.update({KEY: np.full_like(t[KEY], np.nan)}), f"{FLAX_KEY} has values that are not finite"),
        (lambda t: t.update({KEY: np.full_like(t[KEY], -np.inf)}), f"{FLAX_KEY} has values that are not finite"),
        (lambda t: t.update({KEY: t[KEY].astype(np.int8)}), f"{FLAX_KEY} is int8; only float16, bfloat16"),
        (lambda t: t.update({f"image.{weights.WORDS}": t[KEY]}), "holds several BERTs"),
        (lambda t: prefixed(t, "text.", {"image.weight": t[KEY]}), "unexplained tensor image.weight"),
        (lambda t: prefixed(t, "text.", {"encoder.layer.0.output.dense.weight": t[KEY]}), "unexplained tensor enc"),
    ],
    ids=["missing", "shape", "extra", "foreign", "nan", "inf", "int8", "two", "outside", "same name"],
)
def test_wrong_tensors_are_named(
    golden_folder: Path, golden_tensors: Tensors, change: Callable[[Tensors], Any], message: str
) -> None:
    tensors = dict(golden_tensors)
    change(tensors)
    save(golden_folder, tensors)
    fails(golden_folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "config.json: model_type is 'roberta'; only 'bert' is supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_act": "mish"}, "unknown hidden_act 'mish'"),
        ({"num_hidden_layers": 3}, "lacks the tensor encoder/layer/2/"),
        ({"hidden_size": None}, "has shape .*24.*, config.json says .*768"),  # BERT-base's, as in transformers
        ({"is_decoder": True}, "is_decoder is True; only False is supported"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"num_hidden_layers": 2**64}, f"the number {2**64}... is out of range"),
        ({"num_hidden_layers": 2**23}, "lacks the tensor encoder/layer/2/"),
        ({"hidden_size": 2**24 - 1}, r"has shape .*, config.json says"),
        ({"vocab_size": 2**40}, f"vocab_size is {2**40}; it must"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must"),
        ({"hidden_size": "24"}, "config.json: .*hidden_size"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not divisible by 5"),
        ({"layer_norm_eps": 7.0}, "layer_norm_eps is 7.0"),
        ({"model_type": "no_such_model"}, "model_type is 'no_such_model'; only 'bert' is supported"),
    ],
    ids=str,
)
def test_wrong_config_is_named(golden_folder: Path, change: dict[str, Any], message: str) -> None:
    file = golden_folder / "config.json"
    config = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    fails(golden_folder, message)


def test_missing_and_broken_files(golden_folder: Path) -> None:
    weights = golden_folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    fails(golden_folder, "model.safetensors: not a whole safetensors file")
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    fails(golden_folder, "model.safetensors: the tensor a is F8_E4M3; only float16, ")
    weights.unlink()
    fails(golden_folder, "no weights; expected one of model.safetensors")
    (golden_folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize({"a": np.ones(99)})[:200])
    fails(golden_folder, "flax_model.msgpack: not a whole Flax msgpack file")
    (golden_folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize({"a": np.ones(3)}))
    fails(golden_folder, "lacks the tensor embeddings/LayerNorm")
    (golden_folder / "config.json").write_text("{")
    fails(golden_folder, "config.json: cannot be read")
    (golden_folder / "config.json").unlink()
    fails(golden_folder, "config.json: no such file")


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmful",)


@pytest.mark.optional
def test_pickles_run_nothing(golden_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(golden_folder)
    (golden_folder / "model.safetensors").unlink()
    (golden_folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Harmful()}, protocol=2))
    fails(golden_folder, "pytorch_model.bin: not a whole file of plain tensors")
    assert not Path("harmful").exists()


def test_pytorch_bin_without_torch(golden_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (golden_folder / "model.safetensors").unlink()
    (golden_folder / "pytorch_model.bin").write_bytes(b"PK")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    fails(golden_folder, "install torch, or convert them to model.safetensors")


# --- sources ------------------------------------------------------------------------------------------------------


def test_folder_and_package(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("package:etp_jax/models") == Path(huggingface.__file__).parent
    assert resolve("package:etp_jax") == Path(huggingface.__file__).parent.parent


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no_such_package/model", "no Python package 'no_such_package' is installed"),
        ("package:etp_jax/no_such_folder", "has no folder 'no_such_folder'"),
        ("/no/such/folder", "no such folder"),
        ("./folder", "no such folder"),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    with pytest.raises(EtpError, match=message) as caught:
        resolve(source)
    assert "\n" not in str(caught.value)


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline, and nothing cached: one line that names the ways out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EtpError, match=r"'nobody/nothing': no such folder, and .* `package:NAME/FOLDER`") as caught:
        resolve("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_hub_takes_the_first_weights_there_are(monkeypatch: pytest.MonkeyPatch, golden_folder: Path) -> None:
    """A repository with a `.bin` only: asked for in order, and nothing else is fetched."""
    (golden_folder / "model.safetensors").rename(golden_folder / "pytorch_model.bin")
    asked = []

    def snapshot_download(source: str, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((source, revision, allow_patterns[-1], local_files_only))
        return str(golden_folder)

    monkeypatch.setattr(huggingface_hub, "model_info", lambda source, revision, timeout: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("someone/bert") == golden_folder
    assert asked == [("someone/bert", None, name, False) for name in weights.WEIGHTS[:4]]
    asked.clear()
    assert resolve("someone/bert@0123abc") == golden_folder
    assert asked == [("someone/bert", "0123abc", name, False) for name in weights.WEIGHTS[:4]]


def test_names_of_labels_are_not_made(golden_folder: Path) -> None:
    """Hugging Face's library makes a name for each, which takes minutes and all memory."""
    path = golden_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_labels": 10**9}))
    started = time.process_time()
    read_config(golden_folder)
    assert time.process_time() - started < 5
