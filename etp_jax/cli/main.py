"""`etp`: finds the command, parses its options, and turns every error of a user into one line."""

from __future__ import annotations

import difflib
import os
import sys
from typing import Any

import tyro

from etp_jax import progress
from etp_jax.cli import bench, evaluate, predict, prep, quickstart, report, reproduce, shards, tasks, train, waveform
from etp_jax.cli.command import Command
from etp_jax.errors import EtpError

COMMANDS: dict[str, Command] = {
    **quickstart.COMMANDS,
    **prep.COMMANDS,
    **shards.COMMANDS,
    **train.COMMANDS,
    **evaluate.COMMANDS,
    **tasks.COMMANDS,
    **waveform.COMMANDS,
    **report.COMMANDS,
    **predict.COMMANDS,
    **bench.COMMANDS,
    **reproduce.COMMANDS,
}
"""Every command by its name, of one or two words."""
OLD_SPELLINGS = {
    "check": "shards check",
    "prep merge": "shards merge",
    "propose": "waveform propose",
    "similarities": "waveform score",
    "restore": "waveform restore",
    "measure": "waveform measure",
    "tasks": "tasks list",
}
"""Names of version 0.1, not listed, which work until version 0.3."""


def usage(group: str = "") -> str:
    """The list of commands, a line each; of those whose first word is `group` if it is given."""
    names = [name for name in COMMANDS if not group or name.startswith(f"{group} ")]
    width = max(map(len, names))
    lines = [f"  etp {name:<{width}}  {COMMANDS[name].summary}" for name in names]
    head = f"usage: etp {group or 'COMMAND'} ... (each command takes --help, and --quiet: no progress is shown)"
    tail = [] if group else ["", f"  etp {'--version':<{width}}  The installed version."]
    return "\n".join([head, "", *lines, *tail])


def find(argv: list[str]) -> tuple[str, list[str]]:
    """The name of the command that the arguments begin with, and the rest of them.

    Raises:
      EtpError: there is none; the message suggests the most similar names.
    """
    for words in (2, 1):
        name = " ".join(argv[:words])
        name = OLD_SPELLINGS.get(name, name)
        if name in COMMANDS:
            return name, argv[words:]
    given = " ".join(argv[:2]) if argv[0] in groups() else argv[0]
    near = difflib.get_close_matches(given, [*COMMANDS, *groups()], n=2)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "`etp --help` lists them"
    raise EtpError(f"no command {given!r}; {advice}")


def groups() -> list[str]:
    """First words of the commands of two words."""
    return list(dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name))


def parse(argv: list[str]) -> tuple[Command, Any]:
    """The command and its options; exits with status 2 and a message on bad ones."""
    name, rest = find(argv)
    command = COMMANDS[name]
    if command.help is not None and {"-h", "--help"} & set(rest):
        print(command.help([word for word in rest if word not in ("-h", "--help")]))
        sys.exit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    default = {} if command.default is None else {"default": command.default(rest)}
    options = tyro.cli(command.options, args=rest, prog=f"etp {name}", description=command.options.__doc__, **default)
    return command, options


def main(argv: list[str] | None = None) -> None:
    """Entry point of `etp`; a user's mistake is one line on stderr and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    progress.quiet = "--quiet" in argv
    argv = [word for word in argv if word != "--quiet"]
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(usage())
        elif argv[0] == "--version":
            from etp_jax import __version__

            print(f"etp-jax {__version__}")
        elif argv[0] in groups() and (argv[1:] in (["-h"], ["--help"]) or (len(argv) == 1 and argv[0] != "tasks")):
            print(usage(argv[0]))
        else:
            command, options = parse(argv)
            command.run(options)
        sys.stdout.flush()
    except EtpError as error:
        print(f"etp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("etp: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `etp ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains about what is left
        sys.exit(141)
    except OSError as error:  # a file or folder that may not be read or written, a disk without room
        print(f"etp: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
