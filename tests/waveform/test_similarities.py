from __future__ import annotations

import numpy as np

from etp_jax.cli.main import main
from etp_jax.encoder.encoder import Encoder
from etp_jax.shards.reader import Shards
from etp_jax.waveform import similarities
from etp_jax.waveform.features import Feature, collect, load_similarities

FEATURES = {
    "normal ecg": [Feature("normal QRS", None, "")],
    "hypertrophy": [Feature("tall R waves", None, ""), Feature("normal QRS", None, "")],
}


def test_the_file_holds_the_encoders_cosines(run_dir, shards, tmp_path, capsys):
    proposals = collect(FEATURES, {})
    proposals.save(tmp_path / "proposals.json")
    arguments = ["--run", run_dir, "--shards", shards, "--proposals", tmp_path / "proposals.json"]
    main(["waveform", "score", *map(str, arguments), "--out", str(tmp_path / "s.npz")])
    assert "350 ECGs, 2 features" in capsys.readouterr().out
    found, encoder = load_similarities(tmp_path / "s.npz"), Encoder.from_run(run_dir)
    text = encoder.text(proposals.sentences)
    assert found.sentences == proposals.sentences and found.origin["thresholds"].startswith("Youden's J on validation")
    for name in Shards(shards).splits:
        split = Shards(shards).split(name)
        rows = [found.record_ids.index(record_id) for record_id in split.columns.record_id]
        cosines = found.ecg[rows] @ found.text.T
        np.testing.assert_allclose(cosines, encoder.ecg(split)[1] @ text.T, atol=2e-3)


def test_threshold_tells_apart_best():
    rng = np.random.default_rng(0)
    cosines = np.round(rng.normal(size=(300, 1)), 1).astype(np.float32)
    proposed = cosines + rng.normal(size=(300, 1)) > 0.5
    (threshold,) = similarities.thresholds(cosines, proposed)
    gains = {x: (cosines[proposed] >= x).mean() - (cosines[~proposed] >= x).mean() for x in np.unique(cosines)}
    assert gains[threshold] == max(gains.values())


def test_rare_features_take_the_most_similar_tenth():
    cosines = np.linspace(0, 1, 101, dtype=np.float32)[:, None].repeat(3, 1)
    proposed = np.zeros((101, 3), bool)
    proposed[:9, 0] = proposed[:, 2] = True  # too few with it, none, too few without it
    np.testing.assert_allclose(similarities.thresholds(cosines, proposed), 0.9, atol=1e-6)
