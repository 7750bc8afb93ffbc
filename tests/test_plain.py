"""Text from files that is shown."""

from __future__ import annotations

import ast
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from etp_jax.ecg.leads import LEADS, Highlight
from etp_jax.npz import read_npz
from etp_jax.plain import escape, markdown_cell, plain, plain_line
from etp_jax.report.ecg_paper import lay_out
from etp_jax.report.ecg_png import write_png
from etp_jax.training import distributed


def test_control_and_bidirectional_characters_become_codes() -> None:
    assert plain("a\x1b[2J\u202eb\u2066\x9b\x00\ud800") == r"a\u001b[2J\u202eb\u2066\u009b\u0000\ud800"
    assert plain("Größe 3 µV – ♥\tand\nmore") == "Größe 3 µV – ♥\tand\nmore"
    assert plain_line("one\r\ntwo") == "one two"
    assert escape("<b>\u202e") == r"&lt;b&gt;\u202e"
    assert markdown_cell("a|b\n<b>\x1b") == r"a\|b &lt;b>\u001b"


def test_whatever_is_printed_is_made_plain() -> None:
    """Every `print` of the package shows plain text, or constants; the answers of child processes are JSON."""
    allowed = {"progress.py": "self", "signals.py": "signal", "plan_compile.py": "json.dumps"}
    root = Path(__file__).parents[1]
    for path in [*root.glob("etp_jax/**/*.py"), *root.glob("data_prep/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and node.args:
                shown = ast.unparse(node.args[0])
                assert shown.startswith("plain") or allowed.get(path.name, "print()") in shown, f"{path}: {shown}"


def test_the_caption_of_a_picture_is_plain(tmp_path: Path) -> None:
    ecg, leads = np.zeros((100, 12), np.int16), ("I\x1b[2J$\\frac", *LEADS[1:])
    for name, caption, shown in (
        ("a", "rec\u202e\x1b[2J $\\frac", leads),
        ("b", r"rec\u202e\u001b[2J $\frac", tuple(map(plain, leads))),
    ):
        write_png(tmp_path / name, lay_out(ecg, np.ones(12, bool), shown, 100), caption, Highlight())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_reason_of_another_process_is_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed.os, "_exit", lambda status: None)
    watch = distributed.ProcessWatch()
    watch._me = 1
    watch._leave("process 0 of 2: rec\x1b[2J\u202e: bad\nline", 3)
    assert capsys.readouterr().err == "etp: process 0 of 2: rec\\u001b[2J\\u202e: bad line\n"


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(12.0).reshape(3, 4),
        "b": np.asfortranarray(np.eye(3, 2)),
        "c": np.array("text"),
        "d": np.zeros(0),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
        found = read_npz(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_an_array_that_claims_48_terabytes(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (500000, 12000000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError, match="another size"):
        read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("header", [b"{'descr': ('<f8'", b"{" * 9000, b"\xff\x00", b"{'descr': 1}", b"1 +"])
def test_a_header_that_is_no_header(tmp_path: Path, header: bytes) -> None:
    header = header.ljust(9900) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError):
        read_npz(tmp_path / "x.npz")


def test_a_file_that_claims_to_be_encrypted(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="encrypted"):
        read_npz(tmp_path / "x.npz")


def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"x")
    content = bytearray(stream.getvalue())
    place = content.index(b"PK\x01\x02") + 24  # the size in the directory
    content[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "x.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="GiB of memory"):
        read_npz(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
