"""Imports models of random weights: parity with PyTorch and transformers, evaluation like a run, and every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

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
    ABOUT,
    HIDDEN,
    LEADS_OF_MIMIC,
    OUT,
    WIDTH,
    TorchMerl,
    draw,
    etp_import,
    merl_shapes,
    refusal,
    resnet_shapes,
    save,
)
from tests.helpers.small_run import FINDINGS, SAMPLES, write_shards

BERT = {"num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 32}


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
    resnet = {f"model.resnet.{name}": value for name, value in draw(resnet_shapes(blocks=(1, 1, 2, 1))).items()}
    file, run = save(tmp_path / "r.safetensors", resnet | {"model.head.w": np.zeros(3)}), tmp_path / "run"
    about.write_text(json.dumps(ABOUT | {"blocks": [1, 1, 2, 1]}))
    etp_import(file, "--from", "torch-state", "--about", about, "--out", run)
    out = capsys.readouterr().out
    assert "ResNet-1D of 1-1-2-1 blocks, width 4" in out and f"wrote {run}" in out and "no text tower" in out
    assert "not read: model.head.w\n" in out
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
    of_run, of_export = (load(folder).encode_ecg(signal, fs=100, unit="mV") for folder in (run, tmp_path / "out"))
    np.testing.assert_array_equal(of_run, of_export)
    assert of_run.shape == (8 * WIDTH,)
    with pytest.raises(EtpError, match="has no text tower"):
        load(tmp_path / "out").encode_text(["sinus rhythm"])


def test_sizes_and_leads_are_those_of_the_file(tmp_path: Path, about: Path) -> None:
    """Bottlenecks by torchvision's names, of a model that reads three leads, in an order of its own."""
    about.write_text(json.dumps(ABOUT | {"leads": ["V5", "II", "I"], "pool": "mean-max", "stem": "conv-pool"}))
    drawn = draw(resnet_shapes(3, 3, (3, 4, 23, 3), bottleneck=True))
    tensors = {name.replace("shortcut", "downsample").replace("linear", "fc"): value for name, value in drawn.items()}
    file = save(tmp_path / "f.safetensors", tensors)
    etp_import(file, "--from", "torch-state", "--about", about, "--out", tmp_path / "run")
    encoder = Encoder.from_run(tmp_path / "run")
    tower, params = encoder.config.model.ecg, encoder.variables["params"]["ecg_tower"]
    expected = {"depth": 50, "blocks": (3, 4, 23, 3), "width": 3, "stem": "conv-pool", "pool": "mean-max"}
    assert {name: getattr(tower, name) for name in expected} == expected
    assert encoder.trained_on["leads"] == ["I", "II", "V5"]
    np.testing.assert_array_equal(params["stem_conv"]["kernel"], drawn["conv1.weight"].T[:, ::-1])
    np.testing.assert_array_equal(params["stage3_block23"]["conv3"]["kernel"], drawn["layer3.22.conv3.weight"].T)
    shortcut = params["stage1_block1"]["shortcut_conv"]["kernel"]
    np.testing.assert_array_equal(shortcut, drawn["layer1.0.shortcut.0.weight"].T)


def test_filtered_or_resampled_shards_are_refused(merl: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"fs is 100, .* was trained with 500; prepare the shards"):
        measure("knn", merl, shards, bootstrap=5)
    filtered = write_shards(
        tmp_path / "s", fs=500, samples=5000, preparation={"filters": {"bandpass": [0.5, 40], "notch": None}}
    )
    with pytest.raises(EtpError, match=r"filters is \{'bandpass': \[0\.5, 40\]\}, .* was trained with none; prepare"):
        measure("knn", merl, filtered, bootstrap=5)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in draw(merl_shapes()).items() if name not in names}


STEM, BIAS, ATTENTION = "ecg_encoder.conv1.weight", "ecg_encoder.bn1.bias", "att_pool_head.mhsa.in_proj"
VARIANCE = "ecg_encoder.bn1.running_var"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.weight": np.zeros((2, 2))}, r"has no ResNet, of which a tensor's name ends in layer1.0.conv1.weight"),
        (without(BIAS, "downconv.bias"), f"it lacks downconv.bias, {BIAS}$"),
        (without("att_pool_head.c_proj.weight"), "it lacks att_pool_head.c_proj.weight$"),
        (without("downconv.weight"), "downconv.weight is missing; it must be"),
        (
            {name: value for name, value in draw(resnet_shapes()).items() if not name.startswith("layer3.1.")},
            r"has \[2, 2, 1, 2\] residual blocks .* has \[2, 2, 2, 2\] or \[3, 4, 6, 3\]; get the file again$",
        ),
        (draw(resnet_shapes(blocks=(2, 2, 2))), r"has \[2, 2, 2, 0\] residual blocks in its four stages"),
        (without(STEM), f"{STEM} is missing; it must be a one-dim"),
        (without() | {STEM: np.zeros((4, 12, 7, 7))}, r"is \[4, 12, 7, 7\]; it must be a one-"),
        (without() | {STEM: np.zeros((4, 8, 7))}, "reads 8 leads with a kernel of 7; only 12 leads"),
        (without() | {STEM: np.zeros((4, 12, 5))}, "reads 12 leads with a kernel of 5; only 12"),
        (without() | {"extra.weight": np.zeros(1)}, "it has, and no layer reads them: extra.weight$"),
        (
            without() | {f"extra{i}.weight": np.zeros(1) for i in range(20)},
            r"no layer reads them: (extra\d+.weight, ){7}extra\d+.weight and 12 more$",
        ),
        (
            without() | {BIAS: np.zeros(3), f"{ATTENTION}_bias": np.zeros(50)},
            rf"it has with other shapes {ATTENTION}_bias \[50\], {BIAS} \[3\]$",
        ),
        (without() | {"att_pool_head.cls_token": np.zeros(())}, r"other shapes att_pool_head.cls_token \[\]$"),
        (without() | {f"{ATTENTION}_weight": np.zeros(())}, rf"{ATTENTION}_weight \[\]$"),
        (without() | {BIAS: np.full(4, np.nan)}, f"{BIAS} has values that are not finite"),
        (without() | {BIAS: np.zeros(4, int)}, f"{BIAS} is int64; only float16"),
        (without() | {VARIANCE: -np.ones(4)}, f"{VARIANCE} has variances below zero"),
        (without() | {"ecg_encoder.layer1.0.shortcut.0.weight": np.zeros((4, 4, 1))}, "reads them: .*shortcut.0"),
        (without() | {"b.layer1.0.conv1.weight": np.zeros((4, 4, 3))}, "has several ResNets, "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    tensors: dict[str, np.ndarray], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "f.safetensors", tensors)
    line = refusal(capsys, file, "--from", "merl", "--out", tmp_path / "run")
    assert line.startswith(f"etp: {file}: ") and re.search(words, line), line
    assert len(line) < 2000 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": "quantile"}, "scale is 'quantile'; this package does millivolt, record, lead, min-max"),
        ({"pool": "attention"}, "pool is 'attention'; this package does mean, max, mean-max"),
        ({"stem": "patches"}, "stem is 'patches'; this package does conv, conv-pool"),
        ({"notch": 50}, "'notch' cannot be applied; it states name, fs"),
        ({"leads": [*LEADS[:11], "X"]}, "leads is .*; each is one of I, II"),
        ({"leads": ["I", "I"]}, "none is there twice"),
        ({"leads": ["I", "II"]}, "reads 12 leads with a kernel of 7; only 2 leads"),
        ({"fs": 0}, "fs and samples must be from 1 to 16777216"),
        ({"samples": 10**12}, "fs and samples must be from 1 to 16777216"),
        ({"fs": "500"}, "fs must be a whole number"),
        ({"name": " "}, "name is empty"),
        ({"blocks": [2, 2, 2]}, r"blocks is \[2, 2, 2\]; it has the number of blocks of each of the 4 stages"),
        ({"blocks": [2, 2, 2, 0]}, "blocks is "),
        ({"blocks": [2, 2, 1, 2]}, r"has \[2, 2, 2, 2\] residual blocks, --about states \[2, 2, 1, 2\]; correct it"),
    ],
)
def test_an_input_that_cannot_be_had_is_refused(
    change: dict[str, Any], words: str, about: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about.write_text(json.dumps(ABOUT | change))
    file = save(tmp_path / "f.safetensors", draw(resnet_shapes()))
    line = refusal(capsys, file, "--from", "torch-state", "--about", about, "--out", tmp_path / "run")
    assert re.search(words, line), line


def test_options_that_contradict_each_other(
    merl: Path, about: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, new = merl.parent / "merl.safetensors", tmp_path / "new"
    assert "--from torch-state needs --about" in refusal(capsys, file, "--from", "torch-state", "--out", new)
    line = refusal(capsys, file, "--from", "merl", "--about", about, "--out", new)
    assert "the input format of MERL is known" in line
    assert "holds something already" in refusal(capsys, file, "--from", "merl", "--out", merl)
    line = refusal(capsys, file, "--from", "merl", "--out", new, "--text", text_folder(tmp_path / "text"))
    assert "holds no text tower of merl" in line
    assert "No such file" in refusal(capsys, tmp_path / "none.safetensors", "--from", "merl", "--out", new)
