"""The whole way by the command line, on a small synthetic archive: what `make quickstart` does, in less time."""

from __future__ import annotations

import json

import pytest

from etp_jax.cli import main


@pytest.mark.slow
def test_archive_to_report(tmp_path, capsys):
    shards, run = str(tmp_path / "shards"), tmp_path / "run"
    main.main(["prep", "synthetic", "--out", shards, "--records", "300", "--workers", "1"])
    main.main(["check", shards])
    options = ["--data.batch-size", "32", "--model.ecg.width", "8", "--model.ecg.blocks", "1", "1"]
    options += ["--model.text.hidden", "32", "--optim.epochs", "6", "--run.validate-every", "3"]
    main.main(["train", "--config", "quickstart", "--data.shards", shards, "--workdir", str(run), *options])
    for kind in ("zero-shot", "probe", "retrieval"):
        main.main(["evaluate", kind, "--run", str(run), "--shards", shards])
    main.main(["report", "--run", str(run), "--shards", shards])

    printed = capsys.readouterr().out
    assert "finished at step" in printed and "macro AUROC" in printed
    summary = json.loads((run / "evaluation" / "ptbxl-super-zero-shot-validation.json").read_text())["summary"]
    auroc = {name: summary[name]["0.0"]["macro_auroc"]["mean"] for name in ("trained", "random")}
    assert auroc["trained"] > 0.6 > auroc["random"], auroc
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "ptbxl-super" in page and "<svg" in page

    main.main(["train", "--config", "quickstart", "--data.shards", shards, "--workdir", str(run), *options])
    assert "this run is finished" in capsys.readouterr().out
