"""`etp waveform`: FG-CLEP's waveform features: proposing, scoring, adding to reports, and measuring them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from etp_jax.cli.command import Command, check_positive, show
from etp_jax.errors import EtpError

ProposalsFile = Annotated[Path, tyro.conf.arg(aliases=["--features"])]
"""The option --proposals, which also has its name of version 0.1, --features."""


@dataclass(frozen=True, kw_only=True)
class Propose:
    """Proposes waveform features for report statements, by textbook criteria or a language model."""

    shards: Path
    """Shard folder whose statements are used."""
    out: Path
    """Proposals file to write, such as proposals.json."""
    source: Literal["criteria", "llm"] = "criteria"
    """Textbook criteria, or a language model on any OpenAI-compatible server. OPENAI_API_KEY is sent if it is set."""
    base_url: str = "http://localhost:8000/v1"
    """Base URL of the server of the language model."""
    model: str | None = None
    """Name of the language model on the server."""
    concurrency: int = 4
    """Number of concurrent requests."""
    timeout_s: float = 120.0
    """Longest wait for an answer, in seconds."""
    cache: Path | None = None
    """Folder that caches all answers; by default OUT.cache."""
    dry_run: bool = False
    """Only print how many questions and tokens a run would need."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Embeds the proposed features and all ECGs with an encoder, for `etp waveform restore`."""

    run: Path
    """Run folder of the coarse encoder, made by `etp train`."""
    shards: Path
    """Shard folder whose ECGs are embedded."""
    proposals: ProposalsFile
    """Proposals file written by `etp waveform propose`."""
    out: Path
    """Similarities file to write, such as similarities.npz."""
    checkpoint: Literal["best", "latest"] = "best"
    """Checkpoint of the run to use."""
    text_tower: str | None = None
    """Folder or name of the run's frozen text tower, where it has moved; its weights must be the same."""


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Adds proposed features to the reports where measurements or an encoder confirm them."""

    shards: Path
    """Shard folder to read."""
    proposals: ProposalsFile
    """Proposals file written by `etp waveform propose`."""
    out: Path
    """Shard folder to write. A finished one is left unchanged, an unfinished one is completed."""
    similarities: Path | None = None
    """Similarities file written by `etp waveform score`; required by --filter both and model."""
    filter: Literal["both", "model", "measurement", "none"] = "both"
    """What confirms features: measurements, the encoder (model), or both, measurements first. `none` keeps them all."""
    hold_out_share: float = 0.0
    """Share of the proposed sentences that no report gets, drawn at random. build.json lists them, and `etp waveform
    prompts` writes prompts with them."""
    seed: int = 0
    """Seed of the draw of --hold-out-share."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of worker processes."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Writes prompts with the restored and with the held-out sentences, to compare by `etp evaluate zero-shot`."""

    shards: Path
    """Shard folder written by `etp waveform restore --hold-out-share`."""
    out: Path
    """Folder of the prompt files, TASK-trained.json and TASK-held-out.json."""
    task: str = "ptbxl-super"
    """Downstream task: a name that `etp tasks list` shows, or the .json file of your own task."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measures intervals, axis and amplitudes of a split's ECGs and compares them with PTB-XL's labels."""

    shards: Path
    """Shard folder whose ECGs are measured."""
    split: str = "validation"
    """Split to measure."""
    out: Path | None = None
    """CSV file to write, one row per record."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of worker processes."""


def propose(args: Propose) -> None:
    """Runs `etp waveform propose`."""
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import criteria, llm
    from etp_jax.waveform.propose import distinct_statements
    from etp_jax.waveform.propose import propose as write_proposals

    shards = Shards(args.shards)
    if args.source == "criteria":
        if args.dry_run:
            raise EtpError("--dry-run counts the questions to a language model; --source criteria asks none")
        if args.model is not None or args.cache is not None:
            raise EtpError("--model and --cache are for a language model; add --source llm, or omit them")
        show(write_proposals(shards, criteria.Criteria(), args.out))
        return
    if args.model is None:
        raise EtpError("--source llm needs --model, the name of the model on the server")
    check_positive(concurrency=args.concurrency, timeout_s=args.timeout_s)
    server = llm.Server(args.base_url, args.model, args.timeout_s, args.concurrency)
    model = llm.LanguageModel(server, args.cache or args.out.with_name(args.out.name + ".cache"))
    show(model.plan(distinct_statements(shards)) if args.dry_run else write_proposals(shards, model, args.out))


def score(args: Score) -> None:
    """Runs `etp waveform score`."""
    from etp_jax.encoder.encoder import Encoder
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import similarities
    from etp_jax.waveform.features import load_proposals

    shards, proposals = Shards(args.shards), load_proposals(args.proposals)
    encoder = Encoder.from_run(args.run, args.checkpoint, args.text_tower)
    show(similarities.write(encoder, shards, proposals, args.out))


def restore(args: Restore) -> None:
    """Runs `etp waveform restore`."""
    from etp_jax.waveform.hold_out import HoldOut
    from etp_jax.waveform.restore import restore as write_shards

    check_positive(workers=args.workers)
    if args.similarities is not None and args.filter in ("measurement", "none"):
        raise EtpError(f"--filter {args.filter} reads no similarities; omit --similarities")
    hold_out = HoldOut(args.hold_out_share, args.seed)
    show(write_shards(args.shards, args.proposals, args.out, args.similarities, args.filter, args.workers, hold_out))


def prompts(args: Prompts) -> None:
    """Runs `etp waveform prompts`."""
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform.hold_out import write_prompts

    for file in write_prompts(Shards(args.shards), args.task, args.out):
        show(file)


def measure(args: Measure) -> None:
    """Runs `etp waveform measure`."""
    from etp_jax.waveform.agreement import measure_split

    check_positive(workers=args.workers)
    show(measure_split(args.shards, args.split, args.out, args.workers))


COMMANDS = {
    "waveform propose": Command(Propose, propose),
    "waveform score": Command(Score, score),
    "waveform restore": Command(Restore, restore),
    "waveform prompts": Command(Prompts, prompts),
    "waveform measure": Command(Measure, measure),
}
