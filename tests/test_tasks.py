import json
import subprocess
import sys
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from etp_jax import tasks
from etp_jax.errors import EtpError
from etp_jax.tasks import check_vocabulary, get_task, labels, prompt_sets, task_names


def columns(*records: tuple[str, ...]) -> Any:
    """The only column that a task reads."""
    return SimpleNamespace(labels=list(records))


def codes(name: str) -> list[str]:
    return [c.code for c in get_task(name).classes]


def test_tasks_have_the_classes_of_the_benchmark():
    assert task_names() == ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")
    assert [len(get_task(name).classes) for name in task_names()] == [5, 23, 19, 12]
    assert codes("ptbxl-super") == ["NORM", "MI", "STTC", "CD", "HYP"]


def test_subclasses_part_the_superclasses():
    super_, sub = get_task("ptbxl-super"), get_task("ptbxl-sub")
    assert super_.codes == sub.codes and len(super_.codes) == 44
    for task in (super_, sub):
        assert sum(len(c.codes) for c in task.classes) == 44  # no code in two classes
    for c in sub.classes:
        assert sum(c.codes <= whole.codes for whole in super_.classes) == 1


def test_labels_match_whole_codes_by_name():
    task = get_task("ptbxl-sub")
    keep, y = labels(task, columns(("IMI", "SR"), ("ILMI",), ("MI",), ("AVB",), ("1AVB", "LMI"), (), ("SR", "AFIB")))
    assert keep.tolist() == [True, True, False, False, True, False, False]
    found = [{c.code for c, positive in zip(task.classes, row, strict=True) if positive} for row in y]
    assert found == [{"IMI"}, {"IMI"}, set(), set(), {"_AVB", "LMI"}, set(), set()]
    assert y.dtype == keep.dtype == np.bool_


def test_labels_of_no_record():
    keep, y = labels(get_task("ptbxl-form"), columns())
    assert keep.shape == (0,) and y.shape == (0, 19)


def test_unknown_names_are_told_with_those_there_are():
    with pytest.raises(EtpError, match="no task 'ptbxl'; there are ptbxl-super, ptbxl-sub, ptbxl-form, ptbxl-rhythm"):
        get_task("ptbxl")
    with pytest.raises(EtpError, match=r"no prompt set 'clip'; there are default, .*mets"):
        get_task("ptbxl-super", "clip")


def test_shards_of_another_data_set_are_told():
    task = get_task("ptbxl-rhythm")
    check_vocabulary(task, ["SR", "other"], "shards")
    with pytest.raises(EtpError, match="shards: has none of the label codes of ptbxl-rhythm; its labels are 164889003"):
        check_vocabulary(task, ["164889003", "SRR"], "shards")
    with pytest.raises(EtpError, match="its labels are none"):
        check_vocabulary(task, [], "shards")


@pytest.mark.parametrize("name", task_names())
def test_prompts(name: str):
    for prompts in prompt_sets():
        task = get_task(name, prompts)
        assert [c.code for c in task.classes] == codes(name)
        for c in task.classes:
            assert c.prompts and len(set(c.prompts)) == len(c.prompts)
            assert all(prompt == prompt.strip() and prompt for prompt in c.prompts)
        assert f"{prompts}, version " in task.prompt_set
    default = get_task(name)
    assert all(len(c.prompts) >= 2 for c in default.classes) and not default.whole_prompts
    # Classes that share all their prompts could not be told apart.
    assert len({frozenset(c.prompts) for c in default.classes}) == len(default.classes)


def test_prompts_are_for_classes_that_exist():
    data = json.loads(resources.files(tasks).joinpath("prompts.json").read_text())
    for by_task in data["sets"].values():
        assert {name: list(by_class) for name, by_class in by_task.items()} != {}
        for name, by_class in by_task.items():
            assert set(by_class) == set(codes(name))
    assert data["written"] and isinstance(data["version"], int)


def test_mets_prompts_are_the_published_sentences():
    task = get_task("ptbxl-super", "mets")
    assert task.whole_prompts
    assert task.classes[1].prompts == ("The ECG of myocardial infarction, a type of diagnostic.",)
    assert get_task("ptbxl-form", "mets").classes[5].prompts == (
        "The ECG of ventricular premature complex, a type of form.",
    )


def test_contrast_takes_the_prompts_of_the_set_it_names():
    default, contrast = get_task("ptbxl-super"), get_task("ptbxl-super", "contrast")
    assert contrast.classes == default.classes
    assert default.against == () and "normal ECG" in contrast.against and contrast.against_weight > 0


def test_tasks_need_neither_jax_nor_pandas():
    code = (
        "import sys, etp_jax.tasks; etp_jax.tasks.get_task('ptbxl-super'); print({'jax', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
