"""Tests that `etp` starts anew with huge pages once, and only where they are there to be asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etp_jax import __main__


@pytest.mark.parametrize(
    ("setting", "environment", "restarts"),
    [
        ("always [madvise] never\n", {}, True),
        ("[always] madvise never\n", {}, False),
        ("always madvise [never]\n", {}, False),
        ("always [madvise] never\n", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, False),
    ],
)
def test_restarts_where_they_are_given_on_request(
    setting: str, environment: dict[str, str], restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "execv", lambda path, words: started.append([path, *words]))
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: setting)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "etp_jax", "train"])
    __main__.restart_with_huge_pages()
    assert started == [[sys.executable, sys.executable, "-m", "etp_jax", "train"]] * restarts
    if restarts:
        assert environment == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def test_arguments_and_exit_status_pass_through() -> None:
    command = [sys.executable, "-m", "etp_jax", "no such command"]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("etp: no command 'no such command'")
