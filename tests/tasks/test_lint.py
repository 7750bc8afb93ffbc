import json
from pathlib import Path

import pytest

from etp_jax.cli import main
from etp_jax.errors import EtpError
from etp_jax.tasks import Task, TaskClass, get_task, task_names
from etp_jax.tasks.lint import code_flaws, lint_file, lint_tasks, overview, prompt_flaws
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.waveform.criteria import features_of


def flaws(prompt: str, *names: str) -> list[str]:
    return prompt_flaws([("X", names, [prompt])])


def test_shipped_tasks_are_clean():
    assert lint_tasks() == []


@pytest.mark.parametrize(
    "prompt",
    [
        "normal ECG,", " normal ECG", "normal ECG ", "normal  ECG", "sinus rhythm ,normal", "a,, b", "", "a..",
        "normal\nECG", "Vorhofflimmern für", "Let me know if this meets your requirements!",
        "Here are some: sinus rhythm", "**normal ECG**", "sinus rhythm, in lateral leads", "is it sinus rhythm?",
    ],
)  # fmt: skip
def test_unclean_prompts_are_found(prompt: str):
    assert flaws(prompt)


@pytest.mark.parametrize(
    ("name", "prompt", "fits"),
    [
        ("normal ECG", "sinus rhythm, sinus tachycardia", False),
        ("normal ECG", "sinus rhythm, no definite pathology", True),
        ("ST depression", "ST segment elevation in V1", False),
        ("ST depression", "ST depression or elevation", True),
        ("clockwise rotation", "counterclockwise rotation", False),
        ("counterclockwise rotation", "counter-clockwise rotation", True),
        ("complete right bundle branch block", "incomplete right bundle branch block", False),
        (
            "left anterior or posterior fascicular block",
            "right bundle branch block. left anterior fascicular block",
            True,
        ),
        ("left bundle branch block", "right bundle branch block", False),
        ("sinus tachycardia", "sinus bradycardia", False),
        ("ventricular escape beat", "ventricular premature beat", False),
        ("bradycardia", "sinus bradycardia.", True),
    ],
)
def test_contradictions_are_found(name: str, prompt: str, fits: bool):
    assert (flaws(prompt, name) == []) == fits
    assert flaws(prompt) == []  # without a name nothing is contradicted


def test_a_prompt_belongs_to_one_class():
    texts = [("A", (), ["x", "y", "x"]), ("B", (), ["y"]), ("C", (), ())]
    assert prompt_flaws(texts) == ["class B: 'y' is a prompt of class A too", "class C: no prompt"]
    assert prompt_flaws(texts, frozenset("y")) == ["class C: no prompt"]


def test_code_flaws():
    classes = TaskClass("A", "a", frozenset({"1", "2"}), ("a",)), TaskClass("B", "b", frozenset({"2", "9"}), ("b",))
    task = Task("t", classes, "set", False, dataset="D")
    assert code_flaws(task, ["1", "2"]) == ["t, class B: code 2 makes class A too", "t, class B: D has no code 9"]
    assert len(code_flaws(get_task("csn-legacy"), get_task("csn").codes)) > 0


def test_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.json"
    mine = {
        "NORM": "normal ECG, sinus tachycardia.",
        "AF": "Atrial Flutter",
        "NST": ["ST changes"],
        "MINE": "own class",
    }
    path.write_text(json.dumps(mine))
    assert lint_file(path) == ["class NORM: 'sinus tachycardia' contradicts 'normal ECG'"]
    assert "class AF: 'Atrial Flutter' contradicts 'atrial fibrillation'" in lint_file(path, "georgia")
    assert "class NST_: no prompt" not in lint_file(path, "ptbxl-form")
    assert "class NDT: no prompt" in lint_file(path, "ptbxl-form")
    with pytest.raises(SystemExit) as stop:
        main.main(["tasks", "lint", "--prompts", str(path)])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and "sinus tachycardia" in printed.out and "flaws: 1" in printed.err


def test_file_that_is_none(tmp_path: Path):
    path = tmp_path / "mine.json"
    for text, said in (
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"NORM": 3}', "neither a text nor a list"),
    ):
        path.write_text(text)
        with pytest.raises(EtpError, match=said):
            lint_file(path)
    with pytest.raises(EtpError, match=r"none\.json: no such file"):
        lint_file(tmp_path / "none.json")


def test_listing(capsys: pytest.CaptureFixture[str]):
    main.main(["tasks"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(task_names())]] == list(task_names())
    assert "default" in lines[-1] and "mets" in lines[-1]
    assert any("mitbih-beats" in line and "MIT-BIH" in line for line in overview().splitlines())
    main.main(["tasks", "lint"])
    assert capsys.readouterr().out == "nothing is wrong\n"


def test_prompts_of_a_file_take_the_place_of_the_shipped_ones(tmp_path: Path):
    classes = get_task("ptbxl-form").classes
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({c.code.strip("_"): f"a {c.name}" for c in classes}))
    task = with_prompts("ptbxl-form", file)
    assert [c.prompts for c in task.classes] == [(f"a {c.name}",) for c in classes]
    assert [c.codes for c in task.classes] == [c.codes for c in classes] and "NST_" in {c.code for c in classes}
    assert task.prompt_set.startswith("mine.json, SHA-256 ") and not task.whole_prompts
    file.write_text(json.dumps({c.code: [] if c.code == "PVC" else ["x", "y"] for c in classes}))
    with pytest.raises(EtpError, match=r"mine.json: has no prompt of class PVC of ptbxl-form"):
        with_prompts("ptbxl-form", file)


def test_waveform_prompts_are_the_default_ones_with_their_criteria():
    for name in task_names():
        for plain, enriched in zip(get_task(name).classes, get_task(name, "waveform").classes, strict=True):
            for prompt, longer in zip(plain.prompts, enriched.prompts, strict=True):
                features = [f.sentence for part in prompt.split(". ") for f in features_of(part)]
                assert longer == ". ".join(dict.fromkeys((prompt, *features)))
