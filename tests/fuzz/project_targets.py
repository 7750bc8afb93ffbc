"""Fuzz targets: the files that the project writes, and those that a user gives it besides ECGs."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest.mock import patch

import google_crc32c
import numpy as np

from etp_jax.data_prep import build as build_module
from etp_jax.data_prep.archives import cinc2020, mimic_iv_ecg, mitdb, ptbxl, table
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.data_prep.build import build, build_part
from etp_jax.data_prep.parts import Part, merge
from etp_jax.ecg.leads import Layout
from etp_jax.shards import sealed
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.task_file import SHIPPED, read_task_file
from etp_jax.waveform.answer import read_answer
from etp_jax.waveform.features import Check, Feature, Similarities, collect, load_proposals, load_similarities
from etp_jax.waveform.llm import LanguageModel, Server
from tests.fuzz.target import Reader, Target
from tests.helpers import mimic_samples, ptbxl_samples
from tests.helpers.shard_samples import sample_splits, write_folder
from tests.helpers.unsealed import unseal
from tests.helpers.wfdb_samples import wave, write_record

# What needs jax is imported in the functions, since it takes seconds.


def shards(folder: Path) -> Mapping[str, Reader]:
    """Whatever `etp shards check` accepts is the data that was written."""
    made = write_folder(folder / "shards", sample_splits())
    unseal(made / "build.json")
    first = {path.name: path.read_bytes() for path in made.glob("*.tfrecord*")}

    def read() -> None:
        opened = Shards(made)
        for name in opened.splits:
            split = opened.split(name)
            list(split.columns.report)
            for position in range(min(len(split), 3)):
                _ = split[position]
        check_shards(made)
        assert first == {path.name: path.read_bytes() for path in made.glob("*.tfrecord*")}, "damage passed as sound"

    names = [f"shards/{path.name}" for path in made.iterdir() if path.is_file() and path.suffix != ".csv"]
    return dict.fromkeys(names, read)


def index(folder: Path) -> Mapping[str, Reader]:
    """A damaged index is made again."""
    made = write_folder(folder / "shards", sample_splits())
    splits = {name: Shards(made).split(name).columns for name in Shards(made).splits}
    reports = {name: list(columns.report) for name, columns in splits.items()}

    def read() -> None:
        for name, expected in reports.items():
            assert list(Shards(made).split(name).columns.report) == expected, "a damaged index is used"

    return {f"shards/.index/{path.name}": read for path in (made / ".index").iterdir()}


def sealed_index(folder: Path) -> Mapping[str, Reader]:
    """An index with a right seal and another content is made again, or differs from the shards in `check_shards`."""
    made = write_folder(folder / "shards", sample_splits())
    _ = Shards(made).split("train").columns
    index = made / ".index" / "train.arrow"
    stream = index.read_bytes()[: -sealed.SEAL.size]
    (folder / "stream").write_bytes(stream)

    def read() -> None:
        content = (folder / "stream").read_bytes()
        seal = sealed.SEAL.pack(len(content), google_crc32c.value(content), sealed.MAGIC)
        index.write_bytes(content + seal)
        split = Shards(made).split("train")
        _ = [list(getattr(split.columns, name)) for name in ("report", "statements", "likelihoods", "age", "lead_mask")]
        split.ecg(range(len(split)))
        index.write_bytes(content + seal)
        check_shards(made)

    return {"stream": read}


def parts(folder: Path) -> Mapping[str, Reader]:
    source = ptbxl_samples.write_archive(folder / "source")
    made = [folder / "one", folder / "two"]
    for number, out in enumerate(made, 1):
        build_part(ptbxl.open_archive(source), out, Part(number, 2))
        unseal(out / "part.json")
    return dict.fromkeys(("one/part.json", "two/part.json"), lambda: merge(made, folder / "merged"))


def notes(folder: Path) -> Mapping[str, Reader]:
    """The notes of an unfinished build: what is damaged is done again."""
    source = ptbxl_samples.write_archive(folder / "source")
    archive = ptbxl.open_archive(source)
    out, kept = folder / "out", folder / "kept"
    build(archive, out)
    whole = {path.name: path.read_bytes() for path in out.glob("*.tfrecord*")}
    with suppress(KeyboardInterrupt), patch.object(build_module, "finish", side_effect=KeyboardInterrupt):
        build(archive, kept)
    (kept / ".parts" / "killed.json").write_text("[]", encoding="utf-8")

    def read() -> None:
        copy = shutil.copytree(kept, folder / "copy")
        build(archive, copy)
        assert whole == {path.name: path.read_bytes() for path in copy.glob("*.tfrecord*")}, "another result"

    return {f"kept/.parts/{path.name}": read for path in (kept / ".parts").iterdir()}


def archives(folder: Path) -> Mapping[str, Reader]:
    """Tables and headers of published archives."""
    source = ptbxl_samples.write_archive(folder / "ptbxl")
    mimic = mimic_samples.write_archive(folder / "mimic")
    challenge = folder / "cinc" / "A0001"
    write_record(
        challenge, wave(5000, 12), suffix="mat", format="16+24", comments=("#Age: 56", "#Sex: Male", "#Dx: 426783006")
    )
    arrhythmia = folder / "mitdb"
    arrhythmia.mkdir()
    _write_mitdb(arrhythmia)

    def prepare(reader: object, *args: object) -> None:
        build(reader.open_archive(*args), folder / "out")  # pyright: ignore[reportAttributeAccessIssue]

    return {
        **{f"ptbxl/{path.name}": partial(prepare, ptbxl, source) for path in source.glob("*.csv")},
        "ptbxl/records100/00000/00003_lr.hea": partial(prepare, ptbxl, source),
        **{f"mimic/{path.name}": partial(prepare, mimic_iv_ecg, mimic) for path in mimic.glob("*.csv")},
        "cinc/A0001.hea": partial(prepare, cinc2020, folder / "cinc"),
        "mitdb/100.hea": partial(prepare, mitdb, arrhythmia),
        "mitdb/100.atr": partial(prepare, mitdb, arrhythmia),
    }


def _write_mitdb(folder: Path) -> None:
    import wfdb

    write_record(folder / "100", wave(7200, 2), ("MLII", "V1"), fs=360, comments=("# 69 M 1085 1629 x1",))
    wfdb.wrann("100", "atr", np.arange(100, 7000, 300), ["N", "V"] * 11 + ["N"], write_dir=str(folder))


def own_table(folder: Path) -> Mapping[str, Reader]:
    rows = ["file,report,id,patient,split,labels,age,sex"]
    for number in range(6):
        np.save(folder / f"{number}.npy", wave(1000, 12, number) / 1000)
        split = ("train", "validation", "test")[number % 3]
        labels = ("AF;SR", "\"['AF', 'SR']\"", "\"{'AF': 100.0}\"")[number % 3]
        rows.append(f"{number}.npy,sinus rhythm,r{number},{number},{split},{labels},{50 + number},m")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    columns = TableColumns(
        signal_column="file", report_column="report", id_column="id", patient_column="patient", split_column="split",
        label_column="labels", age_column="age", sex_column="sex",
    )  # fmt: skip

    def read() -> None:
        build(table.open_archive(folder / "table.csv", columns, Layout(fs=100, unit="mV")), folder / "out")

    return dict.fromkeys(("table.csv", "0.npy", "1.npy"), read)


def tasks(folder: Path) -> Mapping[str, Reader]:
    shutil.copyfile(SHIPPED / "ptbxl-super.json", folder / "base.json")
    content = json.loads((folder / "base.json").read_text(encoding="utf-8")) | {"name": "base"}
    (folder / "base.json").write_text(json.dumps(content), encoding="utf-8")
    derived = {"format": 1, "name": "mine", "title": "x", "of": "base.json", "labels": {"NORM": ["a"]}}
    (folder / "mine.json").write_text(json.dumps(derived), encoding="utf-8")
    prompts = {entry["code"]: ["one", "two"] for entry in content["classes"]}
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    return {
        "base.json": lambda: read_task_file(folder / "base.json"),
        "mine.json": lambda: read_task_file(folder / "mine.json"),
        "prompts.json": lambda: with_prompts("ptbxl-super", folder / "prompts.json"),
    }


def waveform(folder: Path) -> Mapping[str, Reader]:
    """Proposals, similarities, and answers of a language model, fresh and cached."""
    feature = Feature("QRS duration is 120 ms or longer", Check("qrs_ms", low=120.0), "test")
    collect({"left bundle branch block": [feature], "other": []}, {"source": "test"}).save(folder / "proposals.json")
    ecg = np.eye(3, 4, dtype=np.float32)
    Similarities(("a", "b", "c"), ("x y z",), ecg, ecg[:1], np.zeros(1, np.float32), {"run": "r"}).save(
        folder / "similarities.npz"
    )
    answer = json.dumps(
        {"features": [{"sentence": feature.sentence, "quantity": "qrs_ms", "low": 120, "leads": ["I"]}]}
    )
    (folder / "answer.json").write_text(answer, encoding="utf-8")
    model = LanguageModel(Server("http://127.0.0.1:9", "m"), folder)
    model._keep("left bundle branch block", json.dumps({"features": [asdict(feature) | {"quantity": None}]}))
    (kept,) = (path.name for path in folder.iterdir() if len(path.name) == 69)

    def cached() -> None:
        if model.plan(["left bundle branch block"]).cached:  # otherwise it is asked again
            model.propose(["left bundle branch block"])

    return {
        "proposals.json": lambda: load_proposals(folder / "proposals.json").save(folder / "again.json"),
        "similarities.npz": lambda: load_similarities(folder / "similarities.npz"),
        "answer.json": lambda: read_answer((folder / "answer.json").read_text("utf-8", "replace"), "m"),
        kept: cached,
    }


def encoder(folder: Path) -> Mapping[str, Reader]:
    """An exported encoder, as `etp predict` loads it; of an earlier version, whose files no digest protects."""
    from etp_jax.api import load
    from etp_jax.encoder.folder import PRETRAINED
    from etp_jax.predict.predictor import Predictor
    from etp_jax.training import digest

    run = shutil.copytree(PRETRAINED, folder / "run")
    digest.forget(run)
    names = [path.name for path in run.iterdir() if path.suffix in (".json", ".safetensors")]
    return {f"run/{name}": lambda: Predictor(load(run)) for name in names}


def run_folder(folder: Path) -> Mapping[str, Reader]:
    """What a run writes, and what reads it: the comparison of runs, its results, and a continued log."""
    from etp_jax.config import load
    from etp_jax.encoder.card import read_figures
    from etp_jax.encoder.folder import PRETRAINED
    from etp_jax.evaluation.results import Result
    from etp_jax.models.tokenizer import Tokenizer
    from etp_jax.report.runs import compare
    from etp_jax.training.log import MetricsLog
    from etp_jax.training.run_folder import read_about

    for name in ("config.json", "text.json", "shards.json"):
        shutil.copyfile(PRETRAINED / name, folder / name)
    lines = [{"kind": "train", "step": n, "loss": 1.0, "ecg_per_s": 10.0} for n in range(1, 5)]
    lines.append({"kind": "validation", "step": 4, "loss": 1.0, "recall": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    Tokenizer.train_wordpiece(["sinus rhythm", "atrial fibrillation"], 80).save(folder / "tokenizer.json")
    _write_result(folder / "evaluation")

    def log() -> None:
        MetricsLog(folder, 3).close()
        compare([folder])

    def result() -> None:
        read_figures(folder / "evaluation" / "r.json")
        Result.load(folder / "evaluation" / "r.json").table()
        compare([folder])

    return {
        "config.json": lambda: (load(folder / "config.json"), compare([folder])),
        "text.json": lambda: read_about(folder / "text.json"),
        "shards.json": lambda: (read_about(folder / "shards.json"), compare([folder])),
        "metrics.jsonl": log,
        "tokenizer.json": lambda: Tokenizer.from_file(folder / "tokenizer.json"),
        "evaluation/r.json": result,
        "evaluation/r.npz": result,
    }


def _write_result(folder: Path) -> None:
    """Writes a result of version 0.1."""
    name = "ptbxl-super-zero-shot-validation"
    with tarfile.open(Path(__file__).parents[1] / "data" / "version_0_1.tar.xz") as archive:
        members = [member for member in archive if Path(member.name).stem == name]
        for member in members:
            member.name = "r" + Path(member.name).suffix
        archive.extractall(folder, members, filter="data")


def text_tower(folder: Path) -> Mapping[str, Reader]:
    """A text tower in Hugging Face's files."""
    import safetensors.numpy
    from flax import serialization

    from etp_jax.models.huggingface import load_bert
    from etp_jax.models.sentence_folder import bert_folder, differences
    from etp_jax.models.tokenizer import Tokenizer

    golden = dict(np.load(Path(__file__).parents[1] / "models" / "golden_bert.npz"))
    tensors = {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}
    tokenizer = Tokenizer.train_wordpiece(["sinus rhythm", "atrial fibrillation"], 60)
    readers: dict[str, Reader] = {}
    for name in ("whole", "sharded", "flax"):
        made = folder / name
        made.mkdir()
        (made / "config.json").write_text(str(golden["config"]), encoding="utf-8")
        readers[f"{name}/config.json"] = partial(load_bert, made)
    safetensors.numpy.save_file(tensors, folder / "whole" / "model.safetensors")
    readers["whole/model.safetensors"] = partial(load_bert, folder / "whole")
    safetensors.numpy.save_file(tensors, folder / "sharded" / "model-1.safetensors")
    weight_map = {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(weight_map), encoding="utf-8")
    readers["sharded/model.safetensors.index.json"] = partial(load_bert, folder / "sharded")
    _, params, _ = load_bert(folder / "whole")
    (folder / "flax" / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(params))
    readers["flax/flax_model.msgpack"] = partial(load_bert, folder / "flax")
    words = folder / "words"
    words.mkdir()
    tokenizer.save(words / "tokenizer.json")
    (words / "config.json").write_text(str(golden["config"]), encoding="utf-8")
    (words / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}', encoding="utf-8")
    old = folder / "old"
    old.mkdir()
    vocabulary = sorted(tokenizer.inner.get_vocab().items(), key=lambda item: item[1])
    (old / "vocab.txt").write_text("\n".join(word for word, _ in vocabulary) + "\n", encoding="utf-8")
    (old / "config.json").write_text(str(golden["config"]), encoding="utf-8")
    readers |= {
        f"words/{n}": partial(Tokenizer.from_folder, words) for n in ("tokenizer.json", "tokenizer_config.json")
    }
    readers["old/vocab.txt"] = partial(Tokenizer.from_folder, old)
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}', encoding="utf-8")
    sentence = lambda: (bert_folder(folder), differences(folder, "mean"))  # noqa: E731
    return {**readers, "modules.json": sentence, "1_Pooling/config.json": sentence}


def study(folder: Path) -> Mapping[str, Reader]:
    from etp_jax.reproduce.plan import read_log
    from etp_jax.reproduce.study import read

    lines = (
        'shards = "data"\ntasks = ["ptbxl-super"]\nrecipe = "ptbxl"\nseeds = [0, 1]\noptions = "--optim.epochs 4"',
        '[[run]]\nname = "coarse"\n[[run]]\nname = "fine"\nstart_from = "coarse"\noptions = ["--optim.epochs", "2"]',
        '[[evaluate]]\nkind = "zero-shot"\nprompts = ["default"]\n[[compare]]\npair = ["coarse", "fine"]',
    )
    (folder / "study.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = {"what": "evaluate", "error": "", "kind": "probe", "seconds": 1.5}
    (folder / "log.jsonl").write_text(json.dumps(log) + "\n", encoding="utf-8")
    return {"study.toml": lambda: read(folder / "study.toml"), "log.jsonl": lambda: read_log(folder)}


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(shards, index, sealed_index, parts, notes, archives, own_table, tasks, waveform),
        *(encoder, run_folder, text_tower, study),
    )
}
