"""Imports models of random weights: parity with PyTorch and transformers, evaluation like a run, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from etp_jax import load
from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.models.tokenizer import Tokenizer
from tests.helpers.evaluations import measure
from tests.helpers.merl_model import (
    HIDDEN,
    LEADS_OF_MIMIC,
    OUT,
    WIDTH,
    TorchMerl,
    draw,
    merl_shapes,
    resnet_shapes,
    save,
)
from tests.helpers.small_run import FINDINGS, SAMPLES

BERT = {"num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 32}
ABOUT = {"name": "their-data", "fs": 100, "samples": SAMPLES, "leads": list(LEADS)}
ABOUT |= {"scale": "record", "stem": "conv", "pool": "mean"}


def etp_import(*words: object) -> None:
    main.main(["import", *map(str, words)])


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of an import that is refused."""
    with pytest.raises(SystemExit):
        etp_import(*words)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def ecgs(rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """Records of MERL's length in µV, in the order of our leads."""
    return rng.integers(-1500, 2500, (count, 5000, 12)).astype(np.int16)


def as_merl_reads(ecg_NTL: np.ndarray) -> np.ndarray:
    """[N, leads, T] in MIMIC's order of leads, from 0 to 1 over the whole record."""
    x = np.stack([ecg_NTL[:, :, LEADS.index(lead)] for lead in LEADS_OF_MIMIC], axis=1) / 1000
    low, high = (f(x, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return ((x - low) / (high - low + 1e-8)).astype(np.float32)


@pytest.fixture
def about(tmp_path: Path) -> Path:
    file = tmp_path / "about.json"
    file.write_text(json.dumps(ABOUT))
    return file


@pytest.fixture(scope="module")
def merl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ECG side of a whole model, imported."""
    folder = tmp_path_factory.mktemp("merl")
    etp_import(
        save(folder / "merl.safetensors", draw(merl_shapes()), "module."), "--from", "merl", "--out", folder / "run"
    )
    return folder / "run"


@pytest.mark.optional
def test_the_ecg_side_equals_pytorch(merl: Path) -> None:
    torch = pytest.importorskip("torch")
    ecg_NTL, reference = ecgs(np.random.default_rng(1)), TorchMerl(torch, draw(merl_shapes()))
    expected = reference.ecg(torch.from_numpy(as_merl_reads(ecg_NTL))).detach().numpy()
    features, embeddings = Encoder.from_run(merl).signals(ecg_NTL, np.ones((3, 12), bool))
    assert features.shape == (3, OUT) and np.abs(expected[0] - expected[1]).max() > 1e-3
    np.testing.assert_allclose(embeddings, expected, atol=1e-5, rtol=0)


@pytest.mark.optional
@pytest.mark.parametrize("prefix", ["", "module.", "ecg_encoder."])
def test_the_encoder_alone_gives_the_mean_over_time(prefix: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = draw(resnet_shapes())
    file = tmp_path / "encoder.pth"
    torch.save({"state_dict": {prefix + name: torch.from_numpy(value) for name, value in tensors.items()}}, file)
    etp_import(file, "--from", "merl", "--out", tmp_path / "run")
    ecg_NTL = ecgs(np.random.default_rng(2))
    reference = TorchMerl(torch, {f"ecg_encoder.{name}": value for name, value in tensors.items()})
    expected = reference.steps(torch.from_numpy(as_merl_reads(ecg_NTL))).mean(-1).numpy()
    features, embeddings = Encoder.from_run(tmp_path / "run").signals(ecg_NTL, np.ones((3, 12), bool))
    np.testing.assert_allclose(features, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(embeddings, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-6)


def text_folder(folder: Path) -> Path:
    """Config and tokenizer of a text tower, without weights."""
    folder.mkdir()
    config = {"model_type": "bert", "vocab_size": 70, "hidden_size": HIDDEN, **BERT}
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer.train_wordpiece(list(FINDINGS.values()), 60).save(folder / "tokenizer.json")
    return folder


@pytest.mark.optional
def test_the_text_side_equals_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = text_folder(tmp_path / "text")
    bert = transformers.BertModel(transformers.BertConfig.from_pretrained(folder)).eval()
    torch.manual_seed(0)
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    tower = {f"lm_model.{name}": value.detach().numpy() for name, value in bert.state_dict().items()}
    file = save(tmp_path / "merl.safetensors", draw(merl_shapes()) | tower)
    etp_import(file, "--from", "merl", "--text", folder, "--out", tmp_path / "run")
    assert "no text tower" not in capsys.readouterr().out
    texts = ["Sinus Rhythm", "inferior myocardial infarction"]
    tokenizer = Tokenizer.from_folder(folder, "true").inner
    reference, expected = TorchMerl(torch, draw(merl_shapes())), []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        expected.append(reference.text(bert(input_ids=ids).pooler_output)[0].detach().numpy())
    model = load(tmp_path / "run")
    np.testing.assert_allclose(model.encode_text(texts), expected, atol=1e-5, rtol=0)
    assert set(model.zero_shot(ecgs(np.random.default_rng(3), 1)[0] / 1000, texts, fs=500)) == set(texts)

    main.main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--dtype", "float32"])
    assert "license: other" in (tmp_path / "out" / "README.md").read_text()


def test_the_first_convolution_is_in_our_order_of_leads(merl: Path) -> None:
    """AVL and aVF change places; all other leads stay."""
    kernel = Encoder.from_run(merl).variables["params"]["ecg_tower"]["stem_conv"]["kernel"]
    theirs = draw(merl_shapes())["ecg_encoder.conv1.weight"].T
    assert kernel.shape == (7, 12, WIDTH)
    for lead in LEADS:
        np.testing.assert_array_equal(kernel[:, LEADS.index(lead)], theirs[:, LEADS_OF_MIMIC.index(lead)])


def test_the_run_states_its_input(merl: Path) -> None:
    config, about = (json.loads((merl / name).read_text()) for name in ("config.json", "shards.json"))
    assert config["model"]["ecg"]["kind"] == "merl" and config["model"]["ecg"]["scale"] == "min-max"
    assert (about["fs"], about["samples"], tuple(about["leads"])) == (500, 5000, LEADS)
    assert about["imported"]["from"] == "merl" and about["imported"]["file"] == "merl.safetensors"


def test_an_encoder_is_evaluated_like_a_run(
    tmp_path: Path, shards: Path, about: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = draw(resnet_shapes(blocks=(1, 1, 2, 1)))
    file, run = save(tmp_path / "r.safetensors", tensors | {"other.w": np.zeros(3)}, "model.resnet."), tmp_path / "run"
    etp_import(file, "--from", "torch-state", "--about", about, "--out", run)
    out = capsys.readouterr().out
    assert "ResNet18-1D, width 4" in out and f"wrote {run}" in out and "no text tower" in out
    for kind in ("probe", "knn"):
        result = measure(kind, run, shards, bootstrap=5)
        assert result["pretrained_on"] == "their-data" and result["checkpoint"]["step"] == 1
    for words in ("zero-shot", "retrieval"):
        with pytest.raises(EtpError, match="has no text tower, so it cannot read sentences; evaluate it by probe"):
            measure(words, run, shards, bootstrap=5)
    main.main(["export", "--run", str(run), "--out", str(tmp_path / "out"), "--dtype", "float32"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in card and "r.safetensors" in card
    signal = np.random.default_rng(0).normal(0, 0.5, (SAMPLES, 12))
    vectors = [load(folder).encode_ecg(signal, fs=100, unit="mV") for folder in (run, tmp_path / "out")]
    np.testing.assert_array_equal(*vectors)
    assert vectors[0].shape == (8 * WIDTH,)
    with pytest.raises(EtpError, match="has no text tower"):
        load(tmp_path / "out").encode_text(["sinus rhythm"])
