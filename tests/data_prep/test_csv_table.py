"""Tables of one's own as spreadsheets and programs write them: separators, quotes, and rows of other lengths."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from etp_jax.data_prep.archives.table import open_archive
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.ecg.leads import Layout
from etp_jax.errors import EtpError

LAYOUT = Layout(fs=100)
HEADER = "id,file,report,codes\n"


@pytest.mark.parametrize(
    ("text", "labels", "faults"),
    [
        (f"{HEADER}1,a.npy,sinus, left axis,AF\n2,a.npy,x,SR\n", ["SR"], ["line 2: 5 cells instead of 4"]),
        (f"{HEADER}1,a.npy,['AF', 'SR'],SR\n2,a.npy,x", [], ["line 2: 5 cells", "line 3: 3 cells instead of 4"]),
        (f"{HEADER}1,a.npy,x,AF\n{HEADER}2,a.npy,x,SR\n", ["AF", "SR"], ["line 3: repeats the names of the columns"]),
        (f"{HEADER}1,a.npy,x,AF,\n2,a.npy,x,SR,,\n", ["AF", "SR"], []),
        (f'{HEADER}1, a.npy, "x, y", "AF, SR"\n', ["AF, SR"], []),
        (f"{HEADER}1,a.npy,x,AF\n".replace("\n", "\r"), ["AF"], []),
        (f'\ufeff\ufeff{HEADER}1,a.npy,"x\ny","AF"\n', ["AF"], []),
        (f"sep=;\r\n{HEADER}1,a.npy,x,AF\n".replace(",", ";"), ["AF"], []),
        ('"sep=^"\nid^file^report^codes\n1^a.npy^"x, ^y"^AF,SR\n', ["AF, SR"], []),
        (f"{HEADER}1,a.npy,x; y,AF\n".replace(",", "|"), ["AF"], []),
        (f'{HEADER}1,a.npy,"\\"AF\\", seen","AF"\n2,a.npy,"x \\"","SR"\n', ["AF", "SR"], []),
        (f"{HEADER}nan,a.npy,x,AF\n2,a.npy,{'x' * 200_000},SR\n", ["SR"], ["nan: empty"]),
    ],
    ids=["comma", "list and cut", "joined", "ends", "blanks", "cr", "bom", "sep", "own sep", "bars", "escaped", "long"],
)
def test_rows_are_never_shifted(tmp_path: Path, text: str, labels: list[str], faults: list[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1000, 12)))
    (tmp_path / "t.csv").write_bytes(text.encode())
    columns = TableColumns(signal_column="file", report_column="report", label_column="codes", id_column="id")
    archive = open_archive(tmp_path / "t.csv", columns, LAYOUT)
    assert [", ".join(study.labels) for study in archive.studies] == labels
    found = [f"{reject.record_id}:{reject.reason.partition(':')[2]}" for reject in archive.rejects]
    assert len(found) == len(faults) and all(map(str.startswith, found, faults))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,codes,codes\na.npy,AF,SR\n", "column 'codes' appears twice; rename one of the two"),
        (b"file,codes, codes\na.npy,AF,SR\n", "column 'codes' appears twice"),
        (b'file,codes\na.npy,"AF\nb.npy,"SR"\n', "line 3: ',' expected after '\"'"),
        (b'file,codes\na.npy,"AF\n', "line 2: unexpected end of data"),
        (
            b'file,codes\n"1","a.npy","AF"\n"2","b.npy",""\n',
            "every row has 3 cells, the header 2; name the first column",
        ),
        (b'file,codes\n"a \\"b\\",AF\n', "line 2: .*; save it as CSV, with quotes in a cell doubled"),
        (b'file,codes\n"a \\"b\\"",AF\n1,2,3\n', "line 2: .*; save it as CSV, with quotes in a cell doubled"),
        (b"PK\3\4\x14\0\x06\0", "t.csv: a workbook, such as .xlsx; save its sheet as CSV"),
        (gzip.compress(b"file,codes\na.npy,AF\n", mtime=0x7F), "it holds binary data"),
        (gzip.compress(b"file,codes\na.npy,AF\n", mtime=0x81), "it holds binary data"),  # no byte of Windows-1252
        (b"", "column 'file' is missing; it has no columns"),
    ],
    ids=[
        "twice",
        "blank",
        "quote",
        "open quote",
        "row names",
        "backslash",
        "backslash and more",
        "workbook",
        "packed",
        "packed a little later",
        "empty",
    ],
)
def test_tables_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(EtpError, match=message) as caught:
        open_archive(tmp_path / "t.csv", TableColumns(signal_column="file", label_column="codes"), LAYOUT)
    assert "\n" not in str(caught.value)
