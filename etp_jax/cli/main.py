"""`etp`: parses, calls, prints. What each command does lives in the module that it calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from etp_jax import progress
from etp_jax.cli import prep
from etp_jax.config import TrainConfig
from etp_jax.configs import load_recipe
from etp_jax.ecg.leads import Layout
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class Check:
    """Reads a shard folder whole: every CRC, schema, counts, patients in two splits."""

    shards: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Train:
    """Trains a recipe, or goes on with the run that WORKDIR holds."""

    workdir: Path
    """Run folder: checkpoints, metrics, evaluation."""
    config: str = "ptbxl"
    """A shipped recipe's name, or a .py file that defines `config`."""
    stage: str | None = None
    """Stage of a recipe that has several: FG-CLEP's `coarse` or `fine`."""
    extend: bool = False
    """Go on with a finished run to a greater --optim.epochs."""
    distributed: bool = False
    """Several hosts: take coordinator, process count and process id from the environment (JAX's own detection of
    SLURM, GKE and TPU pods, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID). If a process is lost,
    the others stop within 10 seconds with status 75; the same command, on as many hosts or other ones, goes on."""
    recipe: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Evaluate:
    """Measures a run: zero-shot, linear probe, nearest neighbours, fine-tuning, retrieval; beside a random encoder."""

    kind: tyro.conf.Positional[Literal["zero-shot", "probe", "knn", "finetune", "retrieval"]]
    run: Path
    """Run folder made by `etp train`."""
    shards: Path
    """Shard folder to evaluate on."""
    task: str = "ptbxl-super"
    """Downstream task by name; retrieval needs none."""
    split: str = "validation"
    """`test` is asked for by name, for final tables only; `all` (zero-shot) is every record of the shards."""
    checkpoint: Literal["best", "latest"] = "best"
    protocol: Literal["honest", "merl-as-published"] = "honest"
    """Of probe and finetune. `merl-as-published` repeats what MERL's code does, choosing the epoch on the scored split
    among other things (etp_jax/evaluation/as_published.py names them all)."""
    prompts: tuple[str, ...] = ("default",)
    """Prompt sets of a zero-shot evaluation, or .json files, {class code: text or list of texts}; of several, a table
    says how much they matter."""
    published: Path | None = None
    """Folder of published CSV files: their records, labels and splits count instead of the shards' own."""
    json: Path | None = None
    """Where the figures go; by default RUN/evaluation/."""


@dataclass(frozen=True)
class Tasks:
    """Lists the downstream tasks: classes, data set, which records, prompt sets."""


@dataclass(frozen=True)
class TasksLint:
    """Checks the codes and prompts of all tasks, or prompts of your own."""

    prompts: Path | None = None
    """Your prompts instead: JSON, {class code: text or list of texts}."""
    task: str | None = None
    """Whose classes your prompts are for; by default any task's."""


@dataclass(frozen=True)
class Report:
    """Writes RUN/report.html: curves, per-class figures, example ECGs."""

    run: Path
    shards: Path


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the encoder of a run as safetensors, with the embeddings of all prompts, into a folder of its own."""

    run: Path
    """Run folder made by `etp train`."""
    out: Path
    """Folder to write; `etp evaluate` and `etp predict` take it for a run."""
    checkpoint: Literal["best", "latest"] = "best"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights."""
    shards: Path | None = None
    """Shard folder on whose validation split the probabilities of `etp predict` are calibrated."""
    onnx: bool = False
    """Also write the ECG encoder as ONNX: millivolt in, features and unit embedding out. Needs the extra `onnx`."""


@dataclass(frozen=True)
class Predict:
    """Findings of one ECG, with page and picture, or of a folder of ECGs, as a table. No medical device."""

    record: tyro.conf.Positional[Path]
    """WFDB, EDF, .mat, .npy or .csv file, of any leads; or a folder of such files."""
    run: Path | None = None
    """Run folder, or folder of `etp export`; by default the encoder that ships."""
    task: tuple[str, ...] = ()
    """Tasks by name, the one to explain first; by default all that the encoder has probabilities for."""
    prompt: tuple[str, ...] = ()
    """Sentences of your own: similarity and rank only. They need the text tower."""
    shards: Path | None = None
    """Shard folder whose training reports are compared; needs the text tower."""
    out: Path = Path("predictions")
    """Folder to write into."""
    layout: Annotated[Layout, tyro.conf.arg(name="")] = field(default_factory=Layout)


@dataclass(frozen=True)
class Reproduce:
    """Trains and evaluates what a study names and is not there yet, and writes one table."""

    file: tyro.conf.Positional[Path]
    """The study, TOML; `studies/` has some, etp_jax/reproduce/study.py describes the form."""
    out: Path
    """Folder for the runs and for table.json, .csv, .md and .html."""
    shards: Path | None = None
    """Shard folder in place of the study's."""
    train: bool = True
    """--no-train: train nothing; evaluate the runs that are finished and write the table of these."""
    dry_run: bool = False
    """Only print what would be done and how long it would take."""


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """Embeds all ECGs of a shard folder and the sentences of proposed features, for `etp restore`."""

    run: Path
    """Run folder made by `etp train`: the coarse encoder."""
    shards: Path
    features: Path
    """File of `etp propose`."""
    out: Path
    """File to write, .npz."""
    checkpoint: Literal["best", "latest"] = "best"


@dataclass(frozen=True)
class Bench:
    """Measures ECG/s, utilisation and memory of the training step and the encoder, and the reader's records/s."""

    config: str = "mets"
    """A shipped recipe's name, or a .py file that defines `config`."""
    samples: int = 1000
    """Length of the made-up ECGs: 1000 is 10 s at 100 Hz, 5000 at 500 Hz."""
    repeats: int = 5
    """Rounds; figures are their medians."""
    batch_sizes: tuple[int, ...] = ()
    """Measure several batch sizes (over all devices) instead of --data.batch-size."""
    device_counts: tuple[int, ...] = ()
    """Measure on so many of this machine's devices, one number after the other; by default on all."""
    scaling: Literal["weak", "strong"] = "weak"
    """With several device counts. weak: each device keeps its batch, the given sizes are those on the most devices;
    strong: the whole batch stays the same."""
    compare: Literal["torch"] | None = None
    """Runs the same layers, batch and precision in PyTorch too, in turns; torch must be installed."""
    peak_tflops: float | None = None
    """What a device computes at best, in 10^12 FLOPs a second, where its data sheet is not known or not meant."""
    peak_gb_per_s: float | None = None
    """Its memory bandwidth, in 10^9 bytes a second."""
    trace: Path | None = None
    """Folder for a profile of three training steps; TensorBoard (XProf) and Perfetto open it."""
    plot: Path | None = None
    """SVG file for ECG/s over batch sizes or device counts."""
    json: Path | None = None
    """Where the figures go; their form is described in etp_jax/bench.py."""
    recipe: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Quickstart:
    """Synthetic archive, shards, training, zero-shot, probe and report.html in a few minutes."""

    out: Path = Path("runs/quickstart")
    """Folder for everything it makes."""
    records: int = 2000


def check(args: Check) -> None:
    """Runs `etp check`."""
    from etp_jax.shards.check import check_shards

    print(check_shards(args.shards))


def train(args: Train) -> None:
    """Runs `etp train`."""
    from etp_jax.training import distributed, loop

    if args.distributed:
        distributed.initialise()
    with distributed.Together():
        loop.train(args.recipe, args.workdir, extend=args.extend)


def evaluate(args: Evaluate) -> None:
    """Runs `etp evaluate`."""
    from etp_jax import evaluation

    if args.prompts != ("default",) and args.kind != "zero-shot":
        raise EtpError(f"--prompts is of zero-shot; a {args.kind} reads none")
    if len(args.prompts) > 1 and args.json:
        raise EtpError("--json names one file; leave it out where there are several --prompts")
    found = {
        prompts: evaluation.run(
            args.kind,
            args.run,
            args.shards,
            args.task,
            split=args.split,
            prompts=prompts,
            json_path=args.json,
            checkpoint=args.checkpoint,
            published=args.published,
            protocol=args.protocol,
        )
        for prompts in args.prompts
    }
    if len(found) > 1:
        print(f"\n{evaluation.sensitivity(found)}")


def tasks(args: Tasks) -> None:
    """Runs `etp tasks`."""
    from etp_jax.tasks.lint import overview

    print(overview())


def tasks_lint(args: TasksLint) -> None:
    """Runs `etp tasks lint`; raises EtpError when something is wrong."""
    from etp_jax.tasks import lint

    flaws = lint.lint_file(args.prompts, args.task) if args.prompts else lint.lint_tasks()
    print("\n".join(flaws) or "nothing is wrong")
    if flaws:
        raise EtpError(f"{args.prompts or 'the shipped tasks'}: flaws: {len(flaws)}")


def report(args: Report) -> None:
    """Runs `etp report`."""
    from etp_jax.report.run import write_page

    print(f"wrote {write_page(args.run, args.shards)}")


def export(args: Export) -> None:
    """Runs `etp export`."""
    from etp_jax.encoder.export import export as write_folder

    print(write_folder(args.run, args.out, args.checkpoint, args.dtype, args.shards, onnx=args.onnx))


def predict(args: Predict) -> None:
    """Runs `etp predict`."""
    from etp_jax.predict.run import predict as tell

    print(tell(args.record, args.out, args.layout, args.run, args.task, args.prompt, args.shards))


def reproduce(args: Reproduce) -> None:
    """Runs `etp reproduce`; raises EtpError when a run or an evaluation failed."""
    from etp_jax.reproduce import reproduce as carry_out

    carry_out(args.file, args.out, shards=args.shards, train=args.train, dry_run=args.dry_run)


def similarities(args: Similarities) -> None:
    """Runs `etp similarities`."""
    from etp_jax.encoder.encoder import Encoder
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import similarities
    from etp_jax.waveform.features import load_proposals

    shards, proposals = Shards(args.shards), load_proposals(args.features)
    print(similarities.write(Encoder.from_run(args.run, args.checkpoint), shards, proposals, args.out))


def bench(args: Bench) -> None:
    """Runs `etp bench`."""
    from etp_jax.bench.run import run

    run(
        args.recipe,
        recipe=args.config,
        samples=args.samples,
        repeats=args.repeats,
        batch_sizes=args.batch_sizes,
        device_counts=args.device_counts,
        scaling=args.scaling,
        compare=args.compare,
        peak_tflops=args.peak_tflops,
        peak_gb_per_s=args.peak_gb_per_s,
        trace=args.trace,
        plot=args.plot,
        json_path=args.json,
    )


def quickstart(args: Quickstart) -> None:
    """Runs `etp quickstart`."""
    shards, run = args.out / "shards", args.out / "run"
    prep.prep_synthetic(prep.PrepSynthetic(out=shards, records=args.records))
    _, training = parse(["train", "--config", "quickstart", "--data.shards", str(shards), "--workdir", str(run)])
    train(training)
    evaluate(Evaluate(kind="zero-shot", run=run, shards=shards, split="test", prompts=("contrast",)))
    evaluate(Evaluate(kind="probe", run=run, shards=shards, split="test"))
    report(Report(run=run, shards=shards))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "quickstart": (Quickstart, quickstart),
    **prep.COMMANDS,
    "check": (Check, check),
    "train": (Train, train),
    "evaluate": (Evaluate, evaluate),
    "tasks": (Tasks, tasks),
    "tasks lint": (TasksLint, tasks_lint),
    "report": (Report, report),
    "reproduce": (Reproduce, reproduce),
    "export": (Export, export),
    "predict": (Predict, predict),
    "similarities": (Similarities, similarities),
    "bench": (Bench, bench),
}


def usage() -> str:
    """The list of commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  etp {name:<{width}}  {(cls.__doc__ or '').splitlines()[0]}" for name, (cls, _) in COMMANDS.items()]
    return "\n".join(["usage: etp COMMAND ... (each takes --help, and --quiet: no progress is shown)", "", *lines])


def parse(argv: list[str]) -> tuple[Callable[[Any], None], Any]:
    """The command's function and its arguments; exits with status 2 and a message on bad ones."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            cls, function = COMMANDS[name]
            rest = argv[words:]
            default = {"default": recipe_default(cls, rest)} if cls in (Train, Bench) else {}
            return function, tyro.cli(cls, args=rest, prog=f"etp {name}", description=cls.__doc__, **default)
    raise EtpError(f"no command {' '.join(argv[:2])!r}; `etp --help` lists them")


def recipe_default(cls: type[Train] | type[Bench], argv: list[str]) -> Any:
    """The recipe that --config names becomes the default of every option."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=cls.config)
    parser.add_argument("--stage")
    args = parser.parse_known_args(argv)[0]
    required = {"workdir": tyro.MISSING} if cls is Train else {}
    return cls(**required, config=args.config, recipe=load_recipe(args.config, args.stage))


def main(argv: list[str] | None = None) -> None:
    """Entry point of `etp`; a user's mistake is one line on stderr and exit status 2."""
    argv = sys.argv[1:] if argv is None else argv
    progress.quiet = "--quiet" in argv
    argv = [word for word in argv if word != "--quiet"]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] == "--version":
        from etp_jax import __version__

        print(f"etp-jax {__version__}")
        return
    try:
        function, args = parse(argv)
        function(args)
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
