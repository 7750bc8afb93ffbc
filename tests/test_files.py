"""What every room uses: errors on one line, JSON files, digests, unit vectors."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etp_jax.errors import EtpError, one_line
from etp_jax.files import check_can_write, is_full, machine, read_json, sha256, whole_file, write_text
from etp_jax.metrics.vectors import unit


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  \n  found \n"), "found"),
        (KeyError("format"), "lacks 'format'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_error_on_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_a_json_object_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"ä": [1, null]}', encoding="utf-8")
    assert read_json(file, "") == {"ä": [1, None]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "x.json: no such file; write it"),
        (b"{", "x.json: cannot be read (Expecting property"),
        (b"[]", "x.json: holds no JSON object; write it"),
        (b"\xff\xfe", "x.json: cannot be read ("),
        (b"[" * 100_000, "x.json: cannot be read ("),
    ],
)
def test_a_file_that_holds_no_json_object_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EtpError) as error:
        read_json(file, "write it")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"etp")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"etp").hexdigest()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host, own = machine(), os.getpid()
    (tmp_path / f".x.json.{host}-{ended.pid}-1.tmp").touch()
    kept = {f".y.json.{host}-{own}-1.tmp", f".x.json.{socket.gethostname()}-0-0-{ended.pid}-1.tmp", f".{host}.tmp"}
    for name in kept:
        (tmp_path / name).touch()
    write_text(tmp_path / "x.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", *kept}


def test_a_full_disk_is_told_with_the_file_and_how_far_it_came(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="after 3 bytes") as error, whole_file(tmp_path / "x") as file:
        file.write(b"etp")
        file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "x") and is_full(error.value) and not list(tmp_path.iterdir())
    with pytest.raises(EtpError) as wrapped:
        raise EtpError("not saved") from error.value
    assert is_full(wrapped.value)
    assert not is_full(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def test_an_output_that_cannot_be_written_is_told_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_can_write(tmp_path / "new" / "folder" / "x.json")
    (tmp_path / "file").touch()
    with pytest.raises(EtpError, match=r"x.json: cannot be written \(.*/file is a file\); name another place"):
        check_can_write(tmp_path / "file" / "deeper" / "x.json")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser, as in containers, may write everywhere
    with pytest.raises(EtpError, match=r"x.json: cannot be written \(.* is read-only\); use --json"):
        check_can_write(tmp_path / "new" / "x.json", "use --json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_unit_vectors_keep_their_type_and_zeros_stay() -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    found = unit(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[0.6, 0.8], [0.0, 0.0]], np.float32))


def test_a_message_that_quotes_line_breaks_is_one_line() -> None:
    assert str(EtpError("a.json: 'V1\n\u2028V2\r\x85' is no lead")) == "a.json: 'V1  V2  ' is no lead"


def test_the_name_of_a_file_that_is_not_utf8_is_written_by_its_codes(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", "run\n" + os.fsdecode(b"caf\xe9\n"))
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "run\ncaf\\udce9\n"
