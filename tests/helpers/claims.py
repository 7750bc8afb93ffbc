"""The lines of results/ that sentences of pages are made of, see `test_claims`."""

from __future__ import annotations

from tests.helpers.pages import TASKS, lines

SUPER, SUB, FORM, RHYTHM = TASKS
FULL = {"stem": "fgclep-plus-full"}
SMALL = {"stem": "fgclep-plus"}
RESTORED, HELD_OUT = (f"prompts/ptbxl-super-{part}.json" for part in ("trained", "held-out"))
PLAIN = ("default", "contrast")
RECALL, RECALL_BACK = "ecg_to_text_recall_10", "text_to_ecg_recall_10"


def line(run: str, *, stem: str = "ptbxl-study", task: str = SUPER, seed: str = "", **columns: str) -> dict[str, str]:
    """One line of results: zero-shot with the prompts named, a probe of a fraction, or retrieval by metric."""
    about = {"run": run, "task": task, "encoder": "difference" if " - " in run else "trained", "metric": "macro_auroc"}
    about |= {"protocol": "honest", "kind": "zero-shot" if "prompts" in columns else "probe"}
    if columns.get("metric") in (RECALL, RECALL_BACK):
        about |= {"kind": "retrieval", "task": ""}
    found = lines(stem, **about | columns)
    if len(found) > 1:
        found = [each for each in found if each["seed"] == (seed or "mean")]
    (only,) = found
    assert not seed or only["seed"] == seed
    return only


def value(run: str, **columns: str) -> float:
    """The value of `line`."""
    return float(line(run, **columns)["value"])


def short(run: str, **columns: str) -> str:
    """The value as pages show it; a difference is a gain."""
    return f"{gain(value(run, **columns)):.3f}"


def loss(run: str, **columns: str) -> str:
    """A difference that is a loss, without its sign."""
    return f"{gain(-value(run, **columns)):.3f}"


def gain(difference: float) -> float:
    """The difference, which has to be one in the direction that the sentence has."""
    assert difference > 0
    return difference


def whole(run: str, **columns: str) -> str:
    """The value with its interval."""
    found = line(run, **columns)
    return "{:.3f} [{:.3f}, {:.3f}]".format(*(float(found[end]) for end in ("value", "low", "high")))


def spread(run: str, tasks: tuple[str, ...] = TASKS, **columns: str) -> float:
    """The greatest difference of two seeds over the tasks."""
    found = []
    for task in tasks:
        seeds = [value(run, task=task, seed=seed, **columns) for seed in "012"]
        found.append(max(seeds) - min(seeds))
    return max(found)
