from pathlib import Path

import pytest

from etp_jax.errors import EtpError
from etp_jax.tasks import get_task
from etp_jax.tasks.published import read_published

HEAD = "patient_id,ecg_id,filename,AFIB,VPC,NORM,1AVB,CRBBB,STE,PAC,CLBBB,STD"
TURNED = "ecg_id,filename,STD,CLBBB,PAC,STE,CRBBB,1AVB,NORM,VPC,AFIB"


def write(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def found(folder: Path, split: str) -> dict[str, set[str]]:
    task = get_task("cpsc2018")
    given = read_published(folder, task)[split]
    codes = [{c.code for c, y in zip(task.classes, row, strict=True) if y} for row in given.y_NC]
    return dict(zip(given.record_ids, codes, strict=True))


def test_columns_are_read_by_name_in_any_order(tmp_path: Path):
    write(tmp_path, "icbeb_train.csv", HEAD, "1,1,A0001,1,0,0,0,0,0,0,0,1")
    write(tmp_path, "icbeb_val.csv", TURNED, "2,A0002,1,0,0,0,0,0,0,0,1", "3,A0003,0,0,0,0,0,0,1,0,0")
    assert found(tmp_path, "train") == {"A0001": {"AFIB", "STD"}}
    assert found(tmp_path, "validation") == {"A0002": {"AFIB", "STD"}, "A0003": {"NORM"}}
    assert set(read_published(tmp_path, get_task("cpsc2018"))) == {"train", "validation"}


def test_records_are_named_by_path_or_number(tmp_path: Path):
    csn, super_ = get_task("csn"), get_task("ptbxl-super")
    labels = ",".join(c.code for c in csn.classes), ",".join("1" + "0" * 37)
    write(tmp_path / "a", "chapman_test.csv", f"ecg_path,{labels[0]}", f"/chapman/18/JS18048.mat,{labels[1]}")
    assert read_published(tmp_path / "a", csn)["test"].record_ids == ("JS18048",)
    write(tmp_path / "b", "super_test.csv", "ecg_id,NORM,MI,HYP,CD,STTC", "9.0,1,0,0,0,0", "38,0,1,0,0,0.0")
    assert read_published(tmp_path / "b", super_)["test"].record_ids == ("9", "38")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((HEAD.replace("STD", "ST"), "1,1,A0001,1,0,0,0,0,0,0,0,1"), "no column STD"),
        ((HEAD, "1,1,A0001,1,0,0,0,0,0,0,0,yes"), "column STD contains 'yes'"),
        ((HEAD, "1,1,A0001,1,0,0,0,0,0,0,0"), r"cannot be read \(line 2 has another number of cells than the first\)"),
        ((HEAD, '1,1,"A0001,1,0,0,0,0,0,0,0,1'), "cannot be read .*; get the file again"),
        ((HEAD, *["1,1,A0001,1,0,0,0,0,0,0,0,1"] * 2), "A0001 occurs twice"),
        ((HEAD.replace("filename", "file").replace("ecg_id", "id"), ""), "no column names the record"),
    ],
)
def test_bad_files_are_told(lines: tuple[str, ...], said: str, tmp_path: Path):
    write(tmp_path, "x_test.csv", *lines)
    with pytest.raises(EtpError, match=f"x_test.csv: .*{said}"):
        read_published(tmp_path, get_task("cpsc2018"))


def test_folders_without_or_with_several_splits_are_told(tmp_path: Path):
    with pytest.raises(EtpError, match=r"no \*_train.csv"):
        read_published(tmp_path, get_task("cpsc2018"))
    write(tmp_path, "a_test.csv", HEAD)
    write(tmp_path, "b_test.csv", HEAD)
    with pytest.raises(EtpError, match=r"2 files end in _test.csv"):
        read_published(tmp_path, get_task("cpsc2018"))
