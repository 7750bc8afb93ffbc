from types import SimpleNamespace
from typing import Any

import numpy as np

from etp_jax.encoder.scores import class_directions, class_scores
from etp_jax.evaluation.zero_shot import called_by_halves
from etp_jax.metrics.classification import best_thresholds
from etp_jax.tasks import Task, TaskClass


def fake_encoder() -> tuple[Any, dict[tuple[str, bool], np.ndarray]]:
    """Gives every sentence a random unit vector, and records how it was called."""
    rng = np.random.default_rng(0)
    known: dict[tuple[str, bool], np.ndarray] = {}

    def text(texts: list[str], whole: bool) -> np.ndarray:
        for sentence in texts:
            vector = rng.normal(size=5)
            known.setdefault((sentence, whole), vector / np.linalg.norm(vector))
        return np.stack([known[sentence, whole] for sentence in texts]).astype(np.float32)

    return SimpleNamespace(text=text), known


def task(against: tuple[str, ...] = (), weight: float = 0.0, whole: bool = False) -> Task:
    classes = (
        TaskClass("A", "a", frozenset("A"), ("a", "aa", "aaa")),
        TaskClass("B", "b", frozenset("B"), ("b",)),
        TaskClass("N", "n", frozenset("N"), ("n", "nn")),
    )
    return Task("t", classes, "set", whole, against, weight)


def unit(*vectors: np.ndarray) -> np.ndarray:
    mean = np.mean(vectors, axis=0)
    return mean / np.linalg.norm(mean)


def test_class_is_the_normalised_mean_of_its_prompts():
    encoder, known = fake_encoder()
    directions = class_directions(encoder, task())
    expected = [
        unit(*(known[prompt, False] for prompt in prompts)) for prompts in (("a", "aa", "aaa"), ("b",), ("n", "nn"))
    ]
    np.testing.assert_allclose(directions, expected, atol=1e-6)
    ecg = unit(np.arange(5.0))[None].astype(np.float32)
    np.testing.assert_allclose(class_scores(ecg, encoder, task()), ecg @ np.transpose(expected), atol=1e-6)


def test_contrast_is_taken_off_all_but_the_class_that_says_it():
    encoder, known = fake_encoder()
    plain = class_directions(encoder, task())
    contrasted = class_directions(encoder, task(("n", "nothing"), 0.5))
    against = unit(known["n", False], known["nothing", False])
    np.testing.assert_allclose(contrasted[:2], plain[:2] - 0.5 * against, atol=1e-6)
    np.testing.assert_allclose(contrasted[2], plain[2], atol=1e-6)


def test_whole_prompts_are_read_as_they_are():
    encoder, known = fake_encoder()
    class_directions(encoder, task(whole=True))
    assert {whole for _, whole in known} == {True}


def test_each_half_of_the_patients_takes_thresholds_from_the_other():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 3).astype(str)
    y = rng.random((120, 2)) < 0.4
    scores = rng.normal(size=(120, 2)) + y
    called = called_by_halves(scores, y, patients)
    # Flipping the labels of a patient can change the predictions only in the half without that patient.
    reached = {}
    for patient in np.unique(patients):
        flipped = np.where((patients == patient)[:, None], ~y, y)
        changed = (called_by_halves(scores, flipped, patients) != called).any(axis=1)
        reached[patient] = set(patients[changed])
    assert sum(map(bool, reached.values())) > 20
    for patient, others in reached.items():
        assert patient not in others
        assert all(others.isdisjoint(reached[other]) for other in others)
    own = scores >= best_thresholds(scores, y)
    assert (called != own).any()
