import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import etp_jax
from etp_jax.config import load
from etp_jax.encoder import encoder
from etp_jax.encoder.encoder import CACHE_FOLDER, Encoder
from etp_jax.encoder.export import export
from etp_jax.errors import EtpError
from etp_jax.models.bert import Bert, BertConfig
from etp_jax.models.text_tower import apply_template, encode_table
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.models.tokens import tokenize
from etp_jax.shards.reader import Shards
from etp_jax.training import digest
from tests.helpers.devices import QUICK_COMPILING
from tests.helpers.small_run import FINDINGS, small_config, write_run, write_shards


def write_bert(folder: Path, seed: int = 0) -> Path:
    """A text tower with weights, as a Hugging Face folder."""
    config = BertConfig(
        80, 8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16
    )
    ids = jnp.zeros((1, 2), jnp.int32)
    params = Bert(config).init(jax.random.key(seed), ids, ids)["params"]
    folder.mkdir(exist_ok=True)
    about = {name: value for name, value in dataclasses.asdict(config).items() if name != "dropout"}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **about}))
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(params))
    Tokenizer.train_wordpiece(list(FINDINGS.values()), 60).save(folder / "tokenizer.json")
    return folder


def test_ecg_embeddings_are_the_models_in_evaluation_mode(run_dir: Path, shards: Path):
    encoder, split = Encoder.from_run(run_dir), Shards(shards).split("test")
    features, embeddings = encoder.ecg(split)
    assert features.dtype == embeddings.dtype == np.float32 and embeddings.shape == (50, 8)
    masks = split.columns.lead_mask
    for row in (0, 49):  # the last batch is not full
        expected: Any = encoder.model.apply(
            encoder.variables, split.ecg([row]), masks[[row]], False, None, method="encode_ecg"
        )
        np.testing.assert_allclose(features[row], expected[0][0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(embeddings[row], expected[1][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_embeddings_are_kept_until_something_changes(
    run_dir: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_dir = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(CACHE_FOLDER))
    encoder, split = Encoder.from_run(run_dir), Shards(shards).split("test")
    first = encoder.ecg(split)

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(Encoder, "_encode_ecg", never)
    for one, other in zip(first, Encoder.from_run(run_dir).ecg(Shards(shards).split("test")), strict=True):
        np.testing.assert_array_equal(one, other)
    for changed in (lambda: encoder.ecg(Shards(shards).split("validation")), lambda: encoder.random(1).ecg(split)):
        with pytest.raises(AssertionError, match="encoded again"):
            changed()


def test_cached_embeddings_that_were_damaged_or_exchanged_are_computed_again(
    run_dir: Path, shards: Path, tmp_path: Path
):
    run_dir = shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(CACHE_FOLDER))
    splits = [Shards(shards).split(name) for name in ("test", "validation")]
    expected = [Encoder.from_run(run_dir).ecg(split)[1] for split in splits]
    files = sorted((run_dir / CACHE_FOLDER).glob("ecg-*.npz"))
    contents = [file.read_bytes() for file in files]
    first, last = contents[0][:200], contents[0][201:]
    for changed in (contents[::-1], [contents[0][:-9], b""], [first + b"\xff" + last, contents[0]]):
        for file, content in zip(files, changed, strict=True):
            file.write_bytes(content)
        for split, embeddings in zip(splits, expected, strict=True):
            np.testing.assert_array_equal(Encoder.from_run(run_dir).ecg(split)[1], embeddings)
        assert [file.read_bytes() for file in files] == contents


def test_embeddings_are_the_same_on_eight_devices(run_dir: Path, shards: Path, tmp_path: Path):
    code = (
        "import sys, jax, numpy as np; from pathlib import Path\n"
        "from etp_jax.encoder import encoder; from etp_jax.shards.reader import Shards\n"
        "encoder.BATCH, encoder.CACHE_FOLDER = 2, 'other'\n"
        "assert jax.device_count() == 8\n"
        "arrays = encoder.Encoder.from_run(Path(sys.argv[1])).ecg(Shards(sys.argv[2]).split('test'))\n"
        "np.savez(sys.argv[3], *arrays)"
    )
    out = tmp_path / "out.npz"
    env = {
        **os.environ,
        "XLA_FLAGS": f"{QUICK_COMPILING} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", code, str(run_dir), str(shards), str(out)], check=True, env=env)
    one = Encoder.from_run(run_dir).ecg(Shards(shards).split("test"))
    with np.load(out) as eight:
        for expected, name in zip(one, eight.files, strict=True):
            np.testing.assert_allclose(eight[name], expected, rtol=1e-5, atol=1e-5)


def test_trained_text_tower_reads_in_the_recipes_template(run_dir: Path):
    encoder = Encoder.from_run(run_dir)
    texts = ["sinus rhythm", "inferior myocardial infarction. hypertrophy"]
    tokens = tokenize(encoder.tower.tokenizer, [f"ECG: {text}" for text in texts], 16)
    expected: Any = encoder.model.apply(encoder.variables, tokens, method="encode_text")
    np.testing.assert_allclose(encoder.text(texts), expected, atol=1e-5)
    as_they_are = tokenize(encoder.tower.tokenizer, texts, 16)
    expected = encoder.model.apply(encoder.variables, as_they_are, method="encode_text")
    np.testing.assert_allclose(encoder.text(texts, whole=True), expected, atol=1e-5)
    assert abs(encoder.text(texts) - expected).max() > 1e-3


def test_random_keeps_the_text_tower_and_draws_the_rest(run_dir: Path, shards: Path):
    trained = Encoder.from_run(run_dir)
    drawn, again, other = trained.random(1), trained.random(1), trained.random(2)
    assert (trained.step, trained.train_seed, drawn.step, drawn.train_seed) == (3, 7, 0, 1)
    texts = [encoder.variables["params"]["text_tower"] for encoder in (trained, drawn)]
    jax.tree.map(np.testing.assert_array_equal, *texts)
    jax.tree.map(np.testing.assert_array_equal, drawn.variables, again.variables)
    for part in ("ecg_tower", "ecg_projection", "text_projection"):
        trees = [jax.tree.leaves(encoder.variables["params"][part]) for encoder in (trained, drawn, other)]
        for one, two in ((0, 1), (1, 2)):
            assert any((x != y).any() for x, y in zip(trees[one], trees[two], strict=True))
    assert all((x == 0).all() or (x == 1).all() for x in jax.tree.leaves(drawn.variables["batch_stats"]))


def test_frozen_text_tower_is_checked_again(tmp_path: Path, shards: Path):
    source = write_bert(tmp_path / "bert")
    config = small_config(shards, pretrained=str(source), frozen=True, pool="mean")
    run, other = (write_run(tmp_path / name, config) for name in ("run", "other"))
    encoder = Encoder.from_run(run)
    assert encoder.tower.params is not None
    config = load(run / "config.json").model.text
    tokens = tokenize(encoder.tower.tokenizer, apply_template(config.template, ["sinus rhythm"]), config.max_tokens)
    hidden = encode_table(encoder.tower.bert_config, encoder.tower.params, tokens, "mean")
    expected: Any = encoder.model.apply(encoder.variables, hidden, method="encode_text")
    np.testing.assert_allclose(encoder.text(["sinus rhythm"]), expected, atol=1e-6)
    write_bert(source, seed=1)
    with pytest.raises(EtpError, match=rf"{source}.*not those of this run \(SHA-256 \w+, {other}/text.json says \w+"):
        Encoder.from_run(other).text(["sinus rhythm"])


def test_frozen_text_tower_that_moved(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    """The run's own tokenizer is used, so only weights are needed, and `transformers` is not."""
    source, there = write_bert(tmp_path / "bert"), tmp_path / "there"
    run = write_run(tmp_path / "run", small_config(shards, pretrained=str(source), frozen=True, pool="mean"))
    expected = Encoder.from_run(run).text(["sinus rhythm"])
    export(run, tmp_path / "exported")
    source.rename(there)
    encoder._tower.cache_clear()
    for folder in (run, tmp_path / "exported"):
        with pytest.raises(EtpError, match=r"'.*bert': no such folder; if the folder has moved, name it with --text"):
            _ = Encoder.from_run(folder).tower
        found = Encoder.from_run(folder, text_tower=str(there)).tower
        assert found.tokenizer.sha256 == json.loads((run / "text.json").read_text())["tokenizer_sha256"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        encoder._tower.cache_clear()
        again = Encoder.from_run(run, text_tower=str(there)).text(["sinus rhythm"])
        np.testing.assert_allclose(again, expected, atol=1e-6)
        assert etp_jax.load(run, text_tower=there).encoder.text_source == str(there)
    write_bert(there, seed=1)
    encoder._tower.cache_clear()
    with pytest.raises(EtpError, match=r"there: the weights of the text tower are not those of this run .* --text-tow"):
        _ = Encoder.from_run(tmp_path / "exported", text_tower=str(there)).tower


def test_trained_text_tower_is_not_named(run_dir: Path):
    with pytest.raises(EtpError, match="the text tower was trained in this run; omit --text-tower"):
        Encoder.from_run(run_dir, text_tower="bert")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ({"fs": 500}, "fs is 500"),
        ({"leads": ["I", "II"]}, r"leads is \['I', 'II'\]"),
        ({"samples": 32}, "samples is 32"),
    ],
)
def test_signals_of_another_shape_are_told(run_dir: Path, tmp_path: Path, build: dict[str, Any], said: str):
    other = Shards(write_shards(tmp_path / "other", **build))
    with pytest.raises(EtpError, match=f"{said}, {run_dir} was trained with"):
        Encoder.from_run(run_dir).ecg(other.split("test"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", " "), ("num_hidden_layers", 2**40), ("hidden_act", "nosuch"), ("dropout", 2), ("dropout", "0")],
)
def test_sizes_of_a_text_tower_that_cannot_be(run_dir: Path, tmp_path: Path, name: str, value: object) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    digest.forget(run)
    about = json.loads((run / "text.json").read_text())
    (run / "text.json").write_text(json.dumps({**about, "bert": {**about["bert"], name: value}}))
    with pytest.raises(EtpError, match=f"text.json: .*{name}"):
        Encoder.from_run(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leads": ["I", "II"]}, "has shape .*, this run needs"),
        ({"leads": ["I"] * 12}, "shards.json: fs, samples or leads are out of range"),
        ({"samples": 10**10}, "shards.json: fs, samples or leads are out of range"),
    ],
)
def test_signals_that_the_weights_do_not_read(run_dir: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    digest.forget(run)
    about = json.loads((run / "shards.json").read_text())
    (run / "shards.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(EtpError, match=said):
        Encoder.from_run(run)


def test_not_a_run_folder(tmp_path: Path):
    with pytest.raises(EtpError, match="no such file"):
        Encoder.from_run(tmp_path)


def test_embeddings_of_a_read_only_folder_are_kept_for_the_user(
    run_dir: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(encoder, "CACHE_FOLDER", "nowhere")
    monkeypatch.setattr(encoder.os, "access", lambda *_: False)
    (tmp_path / "full").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    monkeypatch.setattr(encoder, "_reported", set())
    for split in ("test", "validation"):  # neither can be cached; one line is printed
        assert Encoder.from_run(run_dir).ecg(Shards(shards).split(split))[1].shape[1] == 8
    assert capsys.readouterr().err.count("is not cached, nor is what follows") == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    first = Encoder.from_run(run_dir).ecg(Shards(shards).split("test"))
    monkeypatch.setattr(Encoder, "_encode_ecg", None)
    again = Encoder.from_run(run_dir).ecg(Shards(shards).split("test"))
    np.testing.assert_array_equal(again[1], first[1])
    assert not (run_dir / "nowhere").exists() and len(list((tmp_path / "own" / "etp-jax").iterdir())) == 1
