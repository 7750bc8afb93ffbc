"""What long work shows on a terminal, in a log, and when it is told to be quiet."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from etp_jax import progress
from etp_jax.cli import main


class Screen(io.StringIO):
    """Standard error, on a terminal or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, every_s: float) -> str:
    """What ten steps leave on standard error, a line of another's among them."""
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "EVERY_S", every_s)
    with progress.Bar(total=10, unit="step", desc="training", mininterval=0) as bar:
        for number in range(10):
            bar.set_postfix_str(f"loss {number}", refresh=False)
            bar.update()
            if number == 4:
                bar.write("validated", file=screen)
    return screen.getvalue()


def test_a_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch):
    text = shown(monkeypatch, terminal=False, every_s=0)
    assert "\r" not in text and text.endswith("\n")
    *lines, last = text.splitlines()
    assert "validated" in lines and len(lines) == len(set(lines))
    line = r"training: 10/10 step, \d\d:\d\d gone, 00:00 left, +[\d.?]+step/s, loss 9"
    assert re.fullmatch(line, last), last


def test_what_is_soon_done_leaves_no_line_in_a_log(monkeypatch: pytest.MonkeyPatch):
    assert shown(monkeypatch, terminal=False, every_s=30) == "validated\n"


def test_a_terminal_gets_a_bar_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch):
    text = shown(monkeypatch, terminal=True, every_s=30)
    assert text.count("\r") > 9 and "100%|" in text and "loss 9" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_names_from_files_do_not_control_the_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch):
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "EVERY_S", 0)
    with progress.Bar(total=1, desc="prep \x1b[2J\u202e", unit="record", mininterval=0) as bar:
        bar.write("rec\x1b[2J\u202e: bad", file=screen)
        bar.set_postfix_str("\x9b")
        bar.update()
    text = screen.getvalue()
    assert r"rec\u001b[2J\u202e: bad" in text and r"prep \u001b[2J\u202e: " in text and r"\u009b" in text
    assert not set(text) & set("\u202e\x9b") and "\x1b[2J" not in text


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet(quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "EVERY_S", 0)
    main.main(["prep", "synthetic", "--records", "20", "--workers", "1", "--out", str(tmp_path), *["--quiet"] * quiet])
    said = capsys.readouterr()
    assert ("20/20 record, " in said.err) is not quiet and "shards: " in said.out
