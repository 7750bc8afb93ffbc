"""Likely mistakes at the command line: each ends within seconds, with exit status 2 and one line that names the fault.

`mistakes.tsv` has a command and the start of its message a row; a message of the option parser (a box that points to
`--help`) is left empty. RUN and SHARDS are a run and a shard folder.
"""

from __future__ import annotations

import csv
import shlex
import time
from pathlib import Path

import pytest

from etp_jax import config as config_module
from etp_jax.cli.main import main
from tests.helpers.small_run import small_config

with Path(__file__).with_name("mistakes.tsv").open(encoding="utf-8", newline="") as file:
    MISTAKES = [
        (row["command"], row["message"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]
FILES = {
    "bad.py": "config = (\n",
    "raise.py": 'raise ValueError("x")\n',
    "none.py": "x = 1\n",
    "type.py": "config = 3\n",
    "exit.py": "import sys; sys.exit(3)\n",
    "imp.py": "import nosuchmodule\n",
    "rec.py": 'config = open(".")\n',
    "empty.json": "",
    "list.json": "[1]",
    "study.toml": "x = [\n",
    "study2.toml": "title = 3\n",
    "deep.toml": "x = " + "[" * 5000,
    "file.txt": "hello",
    "t.csv": "file,report\na.npy,x\n",
    "tower/config.json": '{"hidden_size": 8}',
    "arrays.npz": "PK",
}
SECONDS = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "latin.json").write_bytes(b'{"a": "\xe9"}')
    config_module.save(small_config(shards), folder / "small.json")
    return folder


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_ends_in_one_line(
    command: str,
    message: str,
    folder: Path,
    run_dir: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    places = {"RUN": str(run_dir), "SHARDS": str(shards)}
    words = [places.get(word, word) for word in shlex.split(command)]
    started = time.process_time()
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2 and time.process_time() - started < SECONDS
    error = capsys.readouterr().err
    if message:
        for place, path in places.items():
            error = error.replace(path, place)
        assert error.startswith(f"etp: {message}"), error
        assert error.count("\n") == 1
    else:
        assert f"etp {words[0]}" in error and "--help" in error
    assert all((folder / name).read_text() == content for name, content in FILES.items())
