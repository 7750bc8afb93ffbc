import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from etp_jax.errors import EtpError
from etp_jax.tasks import check_vocabulary, get_task, labels, load_task_file, prompt_sets, task_names, vocabulary
from etp_jax.tasks.task_file import table


def columns(*records: tuple[str, ...], dataset: str = "") -> Any:
    """Creates the columns that a task reads."""
    return SimpleNamespace(labels=list(records), dataset=[dataset] * len(records))


def codes(name: str) -> list[str]:
    return [c.code for c in get_task(name).classes]


CLASSES = {
    "ptbxl-super": 5, "ptbxl-sub": 23, "ptbxl-form": 19, "ptbxl-rhythm": 12,
    "mets-super": 5, "mets-form": 5, "mets-rhythm": 5, "mets-super-200": 5, "mets-form-200": 5, "mets-rhythm-200": 5,
    "cpsc2018": 9, "csn": 38, "csn-legacy": 38, "georgia": 22, "mitbih-beats": 5, "ptbxl-all": 71,
}  # fmt: skip


def test_tasks_have_the_classes_of_the_benchmark():
    assert {name: len(get_task(name).classes) for name in task_names()} == CLASSES
    assert codes("ptbxl-super") == ["NORM", "MI", "STTC", "CD", "HYP"]
    assert codes("mets-form") == ["NDT", "NST_", "ABQRS", "PVC", "STD_"]
    assert codes("mets-rhythm") == ["SR", "AFIB", "STACH", "SARRH", "SBRAD"]
    assert codes("mitbih-beats") == ["N", "L", "R", "A", "V"]


def class_codes(name: str) -> dict[str, frozenset[str]]:
    return {c.code: c.codes for c in get_task(name).classes}


def test_codes_that_the_challenge_scores_as_one_are_one_class():
    for name, own in (("csn", ["RBBB", "LBBB", "APB", "VPB"]), ("georgia", ["RBBB", "LBBB", "PAC", "PVC"])):
        known = frozenset(vocabulary(get_task(name).dataset))
        pairs = [
            {"59118001", "713427006"}, {"164909002", "733534002"},
            {"284470004", "63593006"}, {"17338001", "427172004"},
        ]  # fmt: skip
        assert [class_codes(name)[code] for code in own] == [pair & known for pair in pairs]
    assert class_codes("georgia")["AF"] == class_codes("csn")["AFIB"] == {"164889003"}
    assert class_codes("csn")["AF"] == class_codes("georgia")["AFL"] == {"164890007"}


def test_legacy_classes_are_those_whose_acronym_is_within_another():
    names = load_task_file("csn-legacy").known_codes or {}
    acronyms = {acronym: code for code, acronym in names.items()}
    legacy = get_task("csn-legacy")
    known = frozenset(acronyms.values())
    assert legacy.known_codes == known and len(known) == len(acronyms) == 55
    for c in legacy.classes:
        assert c.codes & known == {code for acronym, code in acronyms.items() if c.code in acronym}
    for c in get_task("csn").classes:
        assert c.codes & known == {acronyms[c.code]}
    assert class_codes("csn")["AF"] < class_codes("csn-legacy")["AF"] == {"164889003", "164890007"}


def test_legacy_leaves_out_records_with_a_code_of_no_acronym():
    records = columns(("164889003",), ("164889003", "55827005"), ("426177001",), dataset="chapman_shaoxing_ningbo")
    assert labels(get_task("csn-legacy"), records)[0].tolist() == [True, False, False]
    assert labels(get_task("csn"), records)[0].tolist() == [True, True, False]


def test_among_several_data_sets_only_the_tasks_own_counts():
    mixed = columns(*[("164889003",)] * 3)
    mixed.dataset = ["georgia", "chapman_shaoxing_ningbo", "georgia"]
    assert labels(get_task("georgia"), mixed)[0].tolist() == [True, False, True]
    assert labels(get_task("csn-legacy"), mixed)[0].tolist() == [False, True, False]
    windows = columns(("N",), ("SR",), ("N",))
    windows.dataset = ["mitdb", "mitdb", "ptbxl"]
    assert labels(get_task("mitbih-beats"), windows)[0].tolist() == [True, False, False]


def test_balanced_tasks_want_a_single_label_of_the_whole_task():
    task = get_task("mets-form")
    assert len(task.unscored) == 14 and task.max_per_class == 200
    keep, y = labels(task, columns(("NDT", "SR"), ("NDT", "PVC"), ("NDT", "INVT"), ("INVT",), ("IMI", "STD_")))
    assert keep.tolist() == [True, False, False, False, True]
    assert y[0].tolist() == [True, False, False, False, False]
    super_ = get_task("mets-super")
    keep, _ = labels(super_, columns(("IMI", "AMI"), ("IMI", "LVH")))
    assert keep.tolist() == [True, False]  # two codes of one class are a single label
    assert get_task("mets-super-200").all_splits and not super_.all_splits
    assert super_.classes == get_task("ptbxl-super").classes


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
    with pytest.raises(EtpError, match=r"no task 'ptbxl'; there are ptbxl-super, .*, mitbih-beats"):
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


PROMPTED = [name for name in task_names() if name != "ptbxl-all"]
"""Tasks for zero-shot; the 71 statements have no sentences."""


@pytest.mark.parametrize("name", PROMPTED)
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
    # Classes that share all their prompts could not be distinguished.
    assert len({frozenset(c.prompts) for c in default.classes}) == len(default.classes)


def test_prompt_sets_have_a_version_and_a_note():
    data = table("prompt_sets.json")
    assert all(data["written"].values()) and isinstance(data["version"], int)
    for name in PROMPTED:
        assert all(set(c.prompts) == {"default"} for c in load_task_file(name).classes)


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
