"""Entry point of `etp`: finds the command, parses its options, and reports every user error in one line."""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import fields
from itertools import pairwise, takewhile
from typing import Any

import tyro

from etp_jax import progress
from etp_jax.cli import (
    bench,
    evaluate,
    imports,
    plan,
    predict,
    prep,
    quickstart,
    report,
    reproduce,
    runs,
    shards,
    tasks,
    train,
    waveform,
)
from etp_jax.cli.command import Command, show
from etp_jax.errors import EtpError
from etp_jax.plain import plain_line

COMMANDS: dict[str, Command] = {
    **quickstart.COMMANDS,
    **prep.COMMANDS,
    **shards.COMMANDS,
    **train.COMMANDS,
    **evaluate.COMMANDS,
    **tasks.COMMANDS,
    **waveform.COMMANDS,
    **report.COMMANDS,
    **runs.COMMANDS,
    **predict.COMMANDS,
    **imports.COMMANDS,
    **bench.COMMANDS,
    **plan.COMMANDS,
    **reproduce.COMMANDS,
}
"""All commands by name, which has one or two words."""
OLD_SPELLINGS = {
    "check": "shards check",
    "prep merge": "shards merge",
    "propose": "waveform propose",
    "similarities": "waveform score",
    "restore": "waveform restore",
    "measure": "waveform measure",
    "tasks": "tasks list",
}
"""Command names of version 0.1. They are not listed by `--help`, and work until version 0.3."""


def usage(group: str = "") -> str:
    """Formats the list of commands, one per line; with `group`, only the commands whose first word it is."""
    names = [name for name in COMMANDS if not group or name.startswith(f"{group} ")]
    width = max(map(len, names))
    lines = [f"  etp {name:<{width}}  {COMMANDS[name].summary}" for name in names]
    head = f"usage: etp {group or 'COMMAND'} ... (each command takes --help, and --quiet: no progress is shown)"
    tail = [] if group else ["", f"  etp {'--version':<{width}}  The installed version."]
    return "\n".join([head, "", *lines, *tail])


def find(argv: list[str]) -> tuple[str, list[str]]:
    """Finds the command at the start of the arguments; returns its name and the remaining arguments.

    Raises:
      EtpError: there is no such command; the message suggests the most similar names.
    """
    for words in (2, 1):
        name = " ".join(argv[:words])
        name = OLD_SPELLINGS.get(name, name)
        if name in COMMANDS:
            return name, argv[words:]
    inside = argv[0] in groups()
    given = " ".join(argv[:2]) if inside else argv[0]
    names = [name for name in COMMANDS if name.startswith(f"{argv[0]} ")] if inside else [*COMMANDS, *groups()]
    near = difflib.get_close_matches(given, names, n=2)
    listing = f"`etp {argv[0]} --help`" if inside else "`etp --help`"
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"{listing} lists them"
    raise EtpError(f"no command {given!r}; {advice}")


def groups() -> list[str]:
    """Lists the first words of the commands of two words."""
    return list(dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name))


def parse(argv: list[str]) -> tuple[Command, Any]:
    """Parses the arguments to a command and its options; exits with status 2 and a message if they are invalid."""
    name, rest = find(argv)
    command = COMMANDS[name]
    if command.help is not None and {"-h", "--help"} & set(rest):
        show(command.help([word for word in rest if word not in ("-h", "--help")]))
        sys.exit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    check_values(command.options, rest)
    default = {} if command.default is None else {"default": command.default(rest)}
    options = tyro.cli(command.options, args=rest, prog=f"etp {name}", description=command.options.__doc__, **default)
    return command, options


def check_values(options: type, words: list[str]) -> None:
    """Raises EtpError for words that tyro takes as they are: an empty one, and a list without values or with one twice.

    An empty path is the current folder. Only the options of a recipe, whose names have dots, may be empty.
    """
    for before, word in pairwise(["", *words]):
        if not word and not (before.startswith("--") and "." in before):
            what = before if before.startswith("--") else "an argument"
            raise EtpError(f"{what} is empty; name something, or leave it out")
    for option in fields(options):
        name = f"--{option.name.replace('_', '-')}"
        if str(option.type).startswith("tuple[") and name in words:
            following = list(takewhile(lambda word: not word.startswith("--"), words[words.index(name) + 1 :]))
            if not following:
                raise EtpError(f"{name} has no value; give at least one, or leave {name} out")
            if str(option.type).startswith("tuple[str") and len(set(following)) < len(following):
                raise EtpError(f"{name} has {max(following, key=following.count)!r} twice; name it once")


def main(argv: list[str] | None = None) -> None:
    """Runs `etp`; a user error ends it with one line on stderr and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    progress.quiet = "--quiet" in argv
    argv = [word for word in argv if word != "--quiet"]
    try:
        if not argv or argv[0] in ("-h", "--help"):
            show(usage())
        elif argv[0] == "--version":
            from etp_jax import __version__

            show(f"etp-jax {__version__}")
        elif argv[0] in groups() and (argv[1:] in (["-h"], ["--help"]) or (len(argv) == 1 and argv[0] != "tasks")):
            show(usage(argv[0]))
        else:
            command, options = parse(argv)
            command.run(options)
        sys.stdout.flush()
    except EtpError as error:
        show(plain_line(f"etp: {error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        show("etp: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has exited, as in `etp ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # avoids Python's error on flushing at exit
        sys.exit(141)
    except MemoryError:
        show(
            "etp: the memory is not enough for this command; use a machine with more, or smaller files", file=sys.stderr
        )
        sys.exit(2)
    except OSError as error:  # no permission to read or write a file or folder, or a full disk
        where = f"{error.filename}: " if error.filename else ""
        show(plain_line(f"etp: {where}{error.strerror or error}"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
