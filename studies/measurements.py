"""Checks the measurements of `etp_jax.waveform.measure` three ways, and writes `results/measurements.csv`.

    python studies/measurements.py PTB-XL SHARDS     # from the checkout; needs neurokit2

PTB-XL is the archive with records500, SHARDS a shard folder of it at 100 Hz with the validation split (fold 9). The
references are synthetic ECGs whose intervals are known, neurokit2 (lead II, two methods), and the archive's labels.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from etp_jax.ecg.prepare import Prepared, prepare  # noqa: E402
from etp_jax.ecg.wfdb import read_wfdb  # noqa: E402
from etp_jax.shards.reader import Shards  # noqa: E402
from etp_jax.waveform.agreement import measure_split  # noqa: E402
from etp_jax.waveform.measure import measure  # noqa: E402
from tests.helpers.analytic_ecg import draw, random_known  # noqa: E402

OUT = ROOT / "results" / "measurements.csv"
COLUMNS: tuple[str, ...] = (
    "reference",
    "group",
    "quantity",
    "records",
    "bias",
    "sd",
    "median",
    "sensitivity",
    "specificity",
    "auroc",
)
QUANTITIES = ("rate_bpm", "p_ms", "pr_ms", "qrs_ms", "qt_ms")
TANGENT = 0.5 - 1 / np.pi
"""Part of a raised cosine's flank between its end and the point where the steepest tangent meets zero."""
DRAWN = 100
"""Number of synthetic ECGs of each rate and noise."""
FOLD_9 = 400
"""Number of records of fold 9 that neurokit2 measures."""

METHODS = ("prominence", "dwt")
"""Methods of neurokit2. Onsets and ends of the QRS by `dwt` are often those of P and T; compare the rest only."""
MOMENTS = tuple(f"{wave}_{end}" for wave in "PRT" for end in ("Onsets", "Offsets"))
"""Names of neurokit2's moments that the intervals need."""

Row = dict[str, Any]


def synthetic() -> Iterator[Row]:
    """Ours minus the known intervals, by sampling rate and noise."""
    for fs in (100, 250, 500):
        for noise in (0, 10, 25):
            rng = np.random.default_rng(0)
            pairs: dict[str, list[tuple[float, float]]] = {}
            for _ in range(DRAWN):
                known = random_known(rng)
                found = _measured(Prepared(draw(known, fs, noise, rng), np.ones(12, bool), ()), fs)
                truth = {name: float(getattr(known, name)) for name in QUANTITIES}
                truth["qt_ms, tangent"] = known.qt_ms - TANGENT * known.t_fall_ms
                truth["pr_ms, tangent"] = known.pr_ms - TANGENT * known.p_ms / 2
                truth["p_ms, tangent"] = known.p_ms * (1 - TANGENT)
                for name, value in truth.items():
                    pairs.setdefault(name, []).append((found[name.partition(",")[0]], value))
            for name, some in pairs.items():
                yield _row("synthetic", f"{fs} Hz, noise {noise} µV", name, some)


def against_neurokit(archive: Path, shards: Path) -> Iterator[Row]:
    """Ours minus neurokit2's medians over the beats of lead II."""
    files = sorted((archive / "records500").glob("*/*.hea"))
    whole = [(prepare(read_wfdb(file.with_suffix("")), 500, 5000), 500) for file in files]
    split = Shards(shards).split("validation")
    places = np.random.default_rng(0).permutation(len(split))[:FOLD_9].tolist()
    coarse = [(Prepared(split[place].ecg, split[place].lead_mask, ()), 100) for place in places]
    for group, records in (("PTB-XL, 500 Hz", whole), ("PTB-XL fold 9, 100 Hz", coarse)):
        pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for record, fs in records:
            ours = _measured(record, fs)
            ours["pr_ms + qt_ms"] = ours["pr_ms"] + ours["qt_ms"]
            for method in METHODS:
                for name, value in neurokit(record, fs, method).items():
                    pairs.setdefault((method, name), []).append((ours[name], value))
        yield from (_row(f"neurokit2 {method}", group, name, some) for (method, name), some in pairs.items())


def neurokit(record: Prepared, fs: int, method: str) -> dict[str, float]:
    """Medians of neurokit2's delineation; empty where it fails."""
    import neurokit2  # pyright: ignore[reportMissingImports]

    try:
        lead = neurokit2.ecg_clean(record.ecg[:, 1] / 1000, sampling_rate=fs)
        peaks = neurokit2.ecg_peaks(lead, sampling_rate=fs)[1]["ECG_R_Peaks"]
        waves: Any = neurokit2.ecg_delineate(lead, peaks, sampling_rate=fs, method=method)[1]
    except (ValueError, IndexError, ZeroDivisionError, TypeError):  # it has no error of its own
        return {}
    at = {name: np.asarray(waves[f"ECG_{name}"], float) * 1000 / fs for name in MOMENTS}
    return {
        "rate_bpm": 60_000 / float(np.median(np.diff(peaks) * 1000 / fs)),
        "p_ms": _median(at["P_Offsets"] - at["P_Onsets"]),
        "pr_ms": _median(at["R_Onsets"] - at["P_Onsets"]),
        "qrs_ms": _median(at["R_Offsets"] - at["R_Onsets"]),
        "qt_ms": _median(at["T_Offsets"] - at["R_Onsets"]),
        "pr_ms + qt_ms": _median(at["T_Offsets"] - at["P_Onsets"]),
    }


def against_labels(shards: Path) -> Iterator[Row]:
    """How far textbook criteria agree with the labels of fold 9."""
    for a in measure_split(shards, "validation", workers=1).agreements:
        c = a.criterion
        name = f"{c.quantity} {c.lead} {'≥' if c.above else '≤'} {c.threshold:g}".replace("  ", " ")
        figures = {"sensitivity": a.sensitivity, "specificity": a.specificity, "auroc": a.auroc}
        yield {"reference": "labels", "group": c.label, "quantity": name, "records": a.positives} | {
            key: f"{value:.3f}" for key, value in figures.items()
        }


def _measured(record: Prepared, fs: int) -> dict[str, float]:
    found = measure(record, fs)
    return {name: float(np.squeeze(found.get(name, np.nan))) for name in QUANTITIES}


def _row(reference: str, group: str, quantity: str, pairs: list[tuple[float, float]]) -> Row:
    error = np.subtract(*np.array(pairs, float).T)
    error = error[np.isfinite(error)]
    about = {"reference": reference, "group": group, "quantity": quantity, "records": len(error)}
    return about | {
        "bias": f"{error.mean():.1f}",
        "sd": f"{error.std(ddof=1):.1f}",
        "median": f"{np.median(error):.1f}",
    }


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan


def main(archive: Path, shards: Path) -> None:
    """Writes the table."""
    warnings.filterwarnings("ignore", module="neurokit2")
    rows = [*synthetic(), *against_neurokit(archive, shards), *against_labels(shards)]
    with OUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
