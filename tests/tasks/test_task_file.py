"""Tests task files: a new task needs only a JSON file, and every mistake in it gives one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from etp_jax.cli import main
from etp_jax.encoder.export import all_prompts
from etp_jax.encoder.folder import PRETRAINED, load_prompts
from etp_jax.errors import EtpError
from etp_jax.tasks import catalog, check_prompts, get_task, lint, prompt_sets, task_file, task_names
from etp_jax.tasks.lint import lint_task, lint_tasks
from etp_jax.tasks.task_file import SHIPPED, read_task_file, task_text


def mine(**fields: Any) -> dict[str, Any]:
    """Creates a small valid task with some fields changed; None removes a field."""
    classes = [
        {"code": "AF", "name": "atrial fibrillation", "labels": ["afib", "af"], "prompts": {"default": ["AF", "afib"]}},
        {"code": "N", "name": "normal ECG", "labels": ["norm"], "prompts": {"default": ["normal ECG"]}},
    ]
    content = {"format": 1, "name": "mine", "title": "My task", "classes": classes} | fields
    return {name: value for name, value in content.items() if value is not None}


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def change(number: int, **fields: Any) -> list[dict[str, Any]]:
    """Creates the classes with some fields of one changed."""
    classes = mine()["classes"]
    classes[number] = {k: v for k, v in (classes[number] | fields).items() if v is not None}
    return classes


def test_a_shipped_task_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = shutil.copytree(SHIPPED, tmp_path / "data")
    write(folder / "mine.json", mine())
    for module in (catalog, task_file):
        monkeypatch.setattr(module, "SHIPPED", folder)
    assert task_names()[-1] == "mine" and len(task_names()) == 17
    assert get_task("mine").codes == {"afib", "af", "norm"}


def test_names_of_shipped_files_are_those_of_the_tasks():
    assert {path.stem for path in SHIPPED.glob("*.json")} == set(task_names())
    assert task_names()[0] == "ptbxl-super"
    for path in SHIPPED.glob("*.json"):
        assert task_text(json.loads(path.read_text(encoding="utf-8"))) == path.read_text(encoding="utf-8")


def test_the_shipped_encoder_has_the_prompts_of_all_shipped_tasks():
    assert set(load_prompts(PRETRAINED)) == set(all_prompts())


def test_own_file(tmp_path: Path):
    path = write(tmp_path / "my.json", mine(scored=["AF"], max_per_class=5, archive="a"))
    task = get_task(path)
    assert [c.code for c in task.classes] == ["AF"] and [c.code for c in task.unscored] == ["N"]
    assert (task.name, task.file, task.max_per_class, task.archive) == ("mine", path, 5, "a")
    assert task.prompt_set == f"default, my.json {task.digest}" and len(task.digest) == 12
    path = write(tmp_path / "my.json", mine(title="Another title"))
    everything = get_task(path)
    assert everything.digest != task.digest and everything.classes[1].prompts == ("normal ECG",)
    assert get_task(write(tmp_path / "my.json", mine())).digest == everything.digest  # a title does not affect results


def test_prompt_sets_of_an_own_file(tmp_path: Path):
    contrasts = {"mild": {"of": "default", "against": ["normal ECG"], "weight": 0.1}}
    classes = change(1, prompts={"default": ["normal ECG"], "plain": ["normal"]})
    fields = {"classes": classes, "contrasts": contrasts, "templates": {"said": "An ECG of {name}."}}
    path = write(tmp_path / "my.json", mine(**fields))
    assert prompt_sets(path) == (*prompt_sets(), "plain", "mild", "said")
    assert get_task(path, "said").classes[0].prompts == ("An ECG of atrial fibrillation.",)
    assert get_task(path, "said").whole_prompts
    mild, shipped = get_task(path, "mild"), get_task(path, "contrast")
    assert (mild.against, mild.against_weight, mild.classes) == (("normal ECG",), 0.1, get_task(path).classes)
    assert shipped.against == get_task("ptbxl-super", "contrast").against
    assert get_task(path, "waveform").classes[0].prompts == ("AF", "afib")  # no features are known for these
    with pytest.raises(EtpError, match=r"no prompt set 'clip'; there are default, .*, said"):
        get_task(path, "clip")
    with pytest.raises(EtpError, match=r"my\.json: class AF has no prompt of set 'plain'; add prompts, or evaluate"):
        check_prompts(get_task(path, "plain"))
    with pytest.raises(EtpError, match=r"my\.json: classes AF, N have no prompt of set 'mets'"):
        check_prompts(get_task(path, "mets"))


def test_a_file_derived_from_another(tmp_path: Path):
    head = {"format": 1, "name": "mine", "title": "Mine"}
    shipped = write(tmp_path / "a.json", head | {"of": "ptbxl-rhythm", "scored": ["SR", "AFIB"], "max_per_class": 9})
    task = get_task(shipped)
    assert [c.code for c in task.classes] == ["SR", "AFIB"] and len(task.unscored) == 10
    assert task.classes[0] == get_task("ptbxl-rhythm").classes[0] and task.dataset == "PTB-XL"
    (tmp_path / "deep").mkdir()
    own = write(tmp_path / "deep" / "b.json", head | {"of": "../a.json", "labels": {"SR": ["SR", "NSR"]}})
    assert get_task(own).codes == {"SR", "NSR", "AFIB"} and get_task(own).max_per_class == 9
    before = get_task(own).digest
    write(tmp_path / "a.json", head | {"of": "ptbxl-rhythm", "scored": ["SR", "AFIB"], "max_per_class": 8})
    assert get_task(own).digest != before
    write(tmp_path / "a.json", head | {"of": "deep/b.json"})
    with pytest.raises(EtpError, match=r"b\.json: is derived from itself; correct its `of`"):
        get_task(own)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a JSON object"),
        (mine(format=2), "has format 2; this version reads tasks of format 1"),
        (mine(format=None), "has format None"),
        (mine(prompts={}), "unknown field 'prompts'; the fields are format, name, title, classes, "),
        (mine(title=None), "lacks the field 'title'"),
        (mine(name=3), "name: must be a string, not 3"),
        (mine(name="a b"), "name: 'a b' must consist of 1 to 100 letters, digits"),
        (mine(name="ptbxl-super"), "name: 'ptbxl-super' is the name of a shipped task; choose another"),
        (mine(classes=None), "lacks the field 'classes'"),
        (mine(classes=[]), "classes: there must be at least one"),
        (mine(classes={}), "classes: must be a list, not {}"),
        (mine(classes=["AF"]), r'classes\[1\]: must be an object, not "AF"'),
        (mine(classes=change(1, code="AF")), "classes: code 'AF' is given twice"),
        (mine(classes=change(1, name=None)), r"classes\[2\]: lacks the field 'name'"),
        (mine(classes=change(1, colour="red")), r"classes\[2\]: unknown field 'colour'; the fields are code, name"),
        (mine(classes=change(1, labels="norm")), r'classes\[2\].labels: must be a list, not "norm"'),
        (mine(classes=change(1, labels=[])), "class N: labels: there must be at least one label code"),
        (mine(classes=change(1, labels=[7])), r"classes\[2\].labels\[1\]: must be a string, not 7"),
        (mine(classes=change(1, labels=["n", "n"])), "class N: labels: label code 'n' is given twice"),
        (mine(classes=change(1, labels=["af"])), "class N: labels: 'af' belongs to class AF too; if intended, set"),
        (mine(classes=change(1, prompts=["n"])), r'classes\[2\].prompts: must be an object, not \["n"\]'),
        (mine(classes=change(1, prompts={"a": "n"})), r'classes\[2\].prompts.a: must be a list, not "n"'),
        (mine(scored=["AF", "X"]), "scored: no class 'X'"),
        (mine(scored=[]), "scored: names no class"),
        (mine(max_per_class=0), "max_per_class: must be at least 1, not 0"),
        (mine(max_per_class=True), "max_per_class: must be a whole number, not true"),
        (mine(all_splits="yes"), 'all_splits: must be true or false, not "yes"'),
        (mine(contrasts={"c": {"of": "default", "against": []}}), "contrasts.c: lacks the field 'weight'"),
        (mine(templates={"t": "An ECG."}), "templates.t: must contain {name}"),
        (mine(labels={"AF": ["x"]}), "labels: belongs to a file with `of`"),
        (mine(of="ptbxl"), "of: no task 'ptbxl'; name a shipped task or a .json file"),
        (mine(of="csn", classes=None, labels={"X": []}), "labels: no class 'X' in csn"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, content: Any, message: str):
    path = write(tmp_path / "my.json", content)
    with pytest.raises(EtpError, match=f"^{path}: {message}") as caught:
        get_task(path)
    assert "\n" not in str(caught.value)
    assert lint_task(path) == [str(caught.value)]


def test_a_file_that_is_no_json(tmp_path: Path):
    with pytest.raises(EtpError, match=r"none\.json: cannot be read as a task"):
        read_task_file(tmp_path / "none.json")
    (tmp_path / "my.json").write_text('{"format": 1, "name": "a", "name": "b"}')
    with pytest.raises(EtpError, match=r"my\.json: cannot be read as a task .field 'name' is given twice"):
        read_task_file(tmp_path / "my.json")


def test_codes_may_overlap_where_the_file_says_so(tmp_path: Path):
    path = write(tmp_path / "my.json", mine(classes=change(1, labels=["af"]), overlapping=True))
    assert get_task(path).overlapping and lint_task(path) == []


def test_lint_of_an_own_task(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path / "my.json", mine())
    assert lint_task(path) == []
    assert lint_task(path, ["af", "norm"]) == ["mine, class AF: the data set has no code afib"]
    known = mine(vocabulary={"afib": "", "af": ""}, classes=change(1, prompts={"default": ["AF", "pacemaker!"]}))
    assert lint_task(write(tmp_path / "my.json", known)) == [
        "mine, class N: the data set has no code norm",
        "mine, prompts default, class N: 'AF' is a prompt of class AF too",
        "mine, prompts default, class N: 'pacemaker!' has marks that no statement has",
    ]
    bare = [{k: v for k, v in c.items() if k != "prompts"} for c in mine()["classes"]]
    assert lint_task(write(tmp_path / "my.json", mine(classes=bare))) == [
        "mine, prompts default, class AF: no prompt",
        "mine, prompts default, class N: no prompt",
    ]
    with pytest.raises(SystemExit):
        main.main(["tasks", "lint", path, "--shards", str(shards)])
    printed = capsys.readouterr()
    assert "class AF: the data set has no code afib" in printed.out and f"etp: {path}: flaws: 5" in printed.err
    for argv, message in (
        (["--task", path], "--task belongs to --prompts"),
        (["--shards", str(shards)], "--shards belongs to a task file of your own"),
        ([path, "--prompts", path], "--prompts checks prompts for --task"),
    ):
        with pytest.raises(SystemExit):
            main.main(["tasks", "lint", *argv])
        assert message in capsys.readouterr().err


def test_lint_names_the_broken_one_of_the_shipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken.json").write_text("{")
    for module in (catalog, lint):
        monkeypatch.setattr(module, "SHIPPED", tmp_path)
    (flaw,) = lint_tasks()
    assert "broken.json: cannot be read as a task" in flaw
