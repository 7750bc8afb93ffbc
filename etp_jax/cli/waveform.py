"""`etp waveform`: FG-CLEP's waveform features, proposed, scored, measured and restored."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from etp_jax.cli.command import Command
from etp_jax.errors import EtpError


@dataclass(frozen=True, kw_only=True)
class Propose:
    """Waveform features that are likely for each statement of a shard folder, from textbook criteria or a model."""

    shards: Path
    out: Path
    """File to write, as features.json."""
    source: Literal["criteria", "llm"] = "criteria"
    """`llm`: any OpenAI-compatible server is asked; OPENAI_API_KEY is sent where it is set."""
    base_url: str = "http://localhost:8000/v1"
    """Of the server."""
    model: str | None = None
    """Name of the model, as the server knows it."""
    concurrency: int = 4
    """Questions under way at a time."""
    timeout_s: float = 120.0
    """Longest wait for an answer."""
    cache: Path | None = None
    """Folder that keeps all answers; by default OUT.cache."""
    dry_run: bool = False
    """Only say how many questions and tokens it would take."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Embeds all ECGs of a shard folder and the sentences of proposed features, for `etp waveform restore`."""

    run: Path
    """Run folder made by `etp train`: the coarse encoder."""
    shards: Path
    features: Path
    """File of `etp waveform propose`."""
    out: Path
    """File to write, .npz."""
    checkpoint: Literal["best", "latest"] = "best"


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Adds to each report of a shard folder the proposed features that its signal or an encoder confirms."""

    shards: Path
    features: Path
    """File of `etp waveform propose`."""
    out: Path
    """Shard folder to make; a finished one is left as it is, an unfinished one is completed."""
    similarities: Path | None = None
    """File of `etp waveform score`; for --filter both and model."""
    filter: Literal["both", "model", "measurement", "none"] = "both"
    """Who confirms. `both`: the signal where it can be measured, else the model; `none` keeps all that is proposed."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measures all ECGs of a split (intervals, axis, amplitudes) and compares them with PTB-XL's labels."""

    shards: Path
    split: str = "validation"
    out: Path | None = None
    """CSV to write: a row a record."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


def propose(args: Propose) -> None:
    """Runs `etp waveform propose`."""
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import criteria, llm
    from etp_jax.waveform.propose import distinct_statements
    from etp_jax.waveform.propose import propose as write_proposals

    shards = Shards(args.shards)
    if args.source == "criteria":
        if args.dry_run:
            raise EtpError("--dry-run counts the questions to a language model; the criteria ask none")
        print(write_proposals(shards, criteria.Criteria(), args.out))
        return
    if args.model is None:
        raise EtpError("--source llm needs --model, the name that the server knows")
    if args.concurrency < 1:
        raise EtpError(f"--concurrency is {args.concurrency}; it must be at least 1")
    server = llm.Server(args.base_url, args.model, args.timeout_s, args.concurrency)
    model = llm.LanguageModel(server, args.cache or args.out.with_name(args.out.name + ".cache"))
    print(model.plan(distinct_statements(shards)) if args.dry_run else write_proposals(shards, model, args.out))


def score(args: Score) -> None:
    """Runs `etp waveform score`."""
    from etp_jax.encoder.encoder import Encoder
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import similarities
    from etp_jax.waveform.features import load_proposals

    shards, proposals = Shards(args.shards), load_proposals(args.features)
    print(similarities.write(Encoder.from_run(args.run, args.checkpoint), shards, proposals, args.out))


def restore(args: Restore) -> None:
    """Runs `etp waveform restore`."""
    from etp_jax.waveform.restore import restore as write_shards

    print(write_shards(args.shards, args.features, args.out, args.similarities, args.filter, args.workers))


def measure(args: Measure) -> None:
    """Runs `etp waveform measure`."""
    from etp_jax.waveform.agreement import measure_split

    print(measure_split(args.shards, args.split, args.out, args.workers))


COMMANDS = {
    "waveform propose": Command(Propose, propose),
    "waveform score": Command(Score, score),
    "waveform restore": Command(Restore, restore),
    "waveform measure": Command(Measure, measure),
}
