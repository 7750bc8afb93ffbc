"""Tests the command line from the user's side: its output, its exit status, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etp_jax import configs, progress
from etp_jax.cli import main, quickstart
from etp_jax.cli.command import Command
from etp_jax.cli.shards import Check
from etp_jax.config import TrainConfig, from_dict, to_dict
from etp_jax.errors import EtpError


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs `etp argv`, which must end with status 2 and one line on stderr; returns the line."""
    with pytest.raises(SystemExit) as stop:
        main.main(list(argv))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("etp: "), lines
    return lines[0]


def test_help_lists_every_command(capsys):
    main.main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"etp {name} " in printed for name in main.COMMANDS)


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_takes_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: etp {name}" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert "no command 'trian'; did you mean 'train'" in fails(capsys, "trian")
    assert "did you mean 'evaluate'" in fails(capsys, "evalaute", "probe")
    assert "did you mean 'prep ptbxl'" in fails(capsys, "prep", "ptb-xl")
    assert "`etp --help` lists them" in fails(capsys, "xyzzy")


@pytest.mark.parametrize("group", ["prep", "shards", "evaluate", "waveform", "tasks"])
def test_a_group_lists_its_commands(group, capsys):
    main.main([group, "--help"])
    printed = capsys.readouterr().out
    names = [name for name in main.COMMANDS if name.startswith(f"{group} ")]
    assert len(names) > 1 and all(f"etp {name} " in printed for name in names) and "etp train" not in printed


@pytest.mark.parametrize(("old", "new"), main.OLD_SPELLINGS.items())
def test_old_spellings_work_and_are_not_listed(old, new):
    assert main.find([*old.split(), "--x"]) == (new, ["--x"])
    assert old not in main.COMMANDS


def test_python_m_etp_jax():
    done = subprocess.run([sys.executable, "-m", "etp_jax", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("etp-jax ")


def test_misspelt_option_is_answered_with_the_right_one(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "--workdir", "run", "--optim.learning-rat", "1"])
    assert stop.value.code == 2
    assert "--optim.learning-rate" in capsys.readouterr().err


def test_unknown_recipe_names_those_there_are(capsys):
    line = fails(capsys, "train", "--config", "nosuch", "--workdir", "run")
    assert all(name in line for name in ("etp", "mets", "ptbxl", "quickstart"))


def test_recipe_file_that_defines_no_config(tmp_path, capsys):
    recipe = tmp_path / "mine.py"
    recipe.write_text("answer = 42\n")
    assert "config = TrainConfig" in fails(capsys, "train", "--config", str(recipe), "--workdir", "run")


def test_recipe_file_and_option_over_it(tmp_path):
    recipe = tmp_path / "mine.py"
    lines = "from etp_jax.config import *", "config = TrainConfig(data=DataConfig(batch_size=7), seed=3)"
    recipe.write_text("\n".join(lines))
    _, args = main.parse(["train", "--config", str(recipe), "--workdir", "run", "--seed", "4"])
    assert (args.config.data.batch_size, args.config.seed) == (7, 4)


@pytest.mark.parametrize("name", configs.recipe_names())
def test_shipped_recipes_survive_json(name):
    recipe = configs.load_recipe(name)
    assert from_dict(to_dict(recipe)) == recipe != TrainConfig()


def test_config_of_another_version_names_the_option():
    with pytest.raises(EtpError, match=r"config\.optim: unknown option 'momentum'"):
        from_dict({"optim": {"momentum": 0.9}})


def test_train_without_shards(tmp_path, capsys):
    assert "data.shards" in fails(capsys, "train", "--workdir", str(tmp_path / "run"))


def test_train_on_a_missing_shard_folder(tmp_path, capsys):
    missing = tmp_path / "nothing"
    assert str(missing) in fails(
        capsys, "train", "--data.shards", str(missing), "--workdir", str(tmp_path / "run"), "--config", "quickstart"
    )


def test_check_of_a_folder_that_holds_no_shards(tmp_path, capsys):
    assert str(tmp_path) in fails(capsys, "check", str(tmp_path))


def test_prep_of_a_folder_without_the_archive(tmp_path, capsys):
    line = fails(capsys, "prep", "ptbxl", "--source", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "ptbxl_database.csv" in line


def test_evaluate_a_folder_that_is_no_run(tmp_path, capsys):
    fails(capsys, "evaluate", "zero-shot", "--run", str(tmp_path), "--shards", str(tmp_path))


def test_import_brings_in_neither_jax_nor_tensorflow():
    code = "import sys, etp_jax, etp_jax.cli.main; print(sorted({'jax', 'tensorflow', 'torch'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_reader_that_has_seen_enough():
    code = "from etp_jax.cli.main import main; main(['evaluate', '--help'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        complaints = process.stderr.read()
    assert complaints == b"" and process.returncode == 141


def test_one_line_for_a_process_count_in_words(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "--distributed", "--workdir", "run"])
    assert stop.value.code == 2 and "could not be joined" in capsys.readouterr().err


def test_quickstart_hands_quiet_on(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(quickstart, "prep_synthetic", lambda _: None)
    for step in ("train", "evaluate", "report"):
        monkeypatch.setattr(quickstart, step, lambda _: heard.append(progress.quiet))
    main.main(["quickstart", "--quiet", "--out", str(tmp_path)])
    assert heard == [True] * 4


def test_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main.COMMANDS, "shards check", Command(Check, interrupted))
    with pytest.raises(SystemExit) as stop:
        main.main(["check", str(Path())])
    assert stop.value.code == 130
