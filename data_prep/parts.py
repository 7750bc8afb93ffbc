"""A build divided among machines: each writes a part of the shards, and a merge combines the parts into one folder.

A finished part holds its shards and `part.json`, which contains all data needed to finish the whole folder. Merging
needs no access to the archive, and its result is byte for byte that of a build on one machine.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from etp_jax.errors import EtpError
from etp_jax.files import check_seal, disk_errors, sealed, whole_file, write_text
from etp_jax.json_text import parse_json
from etp_jax.paths import inside, read_file
from etp_jax.progress import Bar
from etp_jax.shards.folder import (
    NOTE_TYPES,
    NOTES,
    BuildSummary,
    claim,
    counted,
    counted_lines,
    current_form,
    finish,
    finished,
)
from etp_jax.shards.reader import BUILD_TYPES, Shards
from etp_jax.shards.record import BUILD_FILE, PART_FILE


@dataclass(frozen=True)
class Part:
    """The part of the shards that one of several machines writes: every `of`-th shard, starting at shard `number`."""

    number: int = 1
    """Number of the part, from 1 to `of`."""
    of: int = 1
    """Total number of parts."""

    def __str__(self) -> str:
        """Returns the part as it is written on the command line."""
        return f"{self.number}/{self.of}"


WHOLE = Part()
PART_TYPES = {
    **{"part": str, "shards": [str], "notes": [NOTE_TYPES]},
    "head": {key: BUILD_TYPES[key] for key in ("name", "fs", "leads", "samples", "label_vocabulary")}
    | {"preparation": {str: object}, "rejects": NOTE_TYPES["rejects"], "notes?": {str: int}, "marks?": {str: [str]}},
}
"""Types of the fields of `part.json`."""
MOST_CHARACTERS = 40
"""Longest text that is parsed as a part; Python refuses to read numbers of thousands of digits."""


def parse_part(text: str) -> Part:
    """Parses `2/3` as part 2 of 3; raises EtpError if the text does not have this form."""
    number, slash, of = text.partition("/")
    if len(text) <= MOST_CHARACTERS and slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return Part(int(number), int(of))
    raise EtpError(f"part {text!r}: must be i/n with i from 1 to n, such as 2/3")


@dataclass(frozen=True)
class PartSummary:
    """Result of the build of a part."""

    folder: Path
    content: dict[str, Any]
    """Content of `part.json`."""
    seconds: float = 0.0
    """Duration of this run, in seconds; 0 if the part was already finished."""

    def __str__(self) -> str:
        """Returns the summary that `etp prep ... --part` prints."""
        notes, head = self.content["notes"], self.content["head"]
        records, rejects = sum(note["shard"]["records"] for note in notes), sum(len(note["rejects"]) for note in notes)
        lines = [
            f"part {self.content['part']}: {len(notes)} of {len(self.content['shards'])} shards; "
            f"records: {records}, rejected: {rejects}",
            *counted_lines(counted({**head, "rejects": [], "notes": {}}, notes), self.folder / PART_FILE),
            *self._of_the_tables(),
            f"time: {self.seconds:.1f} s" if self.seconds else "time: none, the part was finished already",
            f"part: {self.folder}; when all parts are finished: etp shards merge --parts ... --out SHARDS",
        ]
        return "\n".join(lines)

    def _of_the_tables(self) -> list[str]:
        """Returns lines on what the archive's tables gave, the same for all parts; a merge counts it once."""
        head = self.content["head"]
        reasons = Counter(reject["reason"].split(":")[0] for reject in head["rejects"])
        counts = [*sorted(reasons.items()), *head.get("notes", {}).items()]
        title = f"of the archive's tables, for all parts: rejected: {sum(reasons.values())}"
        return [title, *(f"  {what}: {count}" for what, count in counts)] if counts else []


def finished_part(out: Path, recipe: dict[str, Any], part: Part) -> dict[str, Any] | None:
    """Reads `part.json` if `out` holds this part, finished; raises EtpError if it holds another part."""
    if not (out / PART_FILE).exists():
        return None
    content = _read(out)
    if (content["part"], current_form(content["head"]["preparation"])) != (str(part), current_form(recipe)):
        raise EtpError(f"{out}: holds part {content['part']} of a build; choose another folder or delete it")
    shutil.rmtree(out / NOTES, ignore_errors=True)  # still present if the build was killed at its very end
    return content


def finish_part(
    out: Path, head: dict[str, Any], shards: Sequence[str], part: Part, notes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Writes `part.json`, which marks the part as finished.

    Args:
      out: the part's folder, which holds its shards.
      head: first fields of `build.json`, as for `folder.finish`.
      shards: file names of the shards of all parts, in the order of the plan.
      part: the part that `out` holds.
      notes: the note on each shard of this part, in the order of the plan.
    """
    content = {"part": str(part), "head": head, "shards": list(shards), "notes": list(notes)}
    write_text(out / PART_FILE, json.dumps(sealed(content), indent=1, ensure_ascii=False) + "\n")
    for leftover in out.glob(".*.tmp"):
        leftover.unlink()
    shutil.rmtree(out / NOTES)
    return content


def merge(folders: Sequence[Path], out: Path) -> BuildSummary:
    """Combines all parts into one finished shard folder, by hard links, or by copies if a part is on another disk.

    Raises:
      EtpError: a part is missing, given twice, unfinished or of another build; a shard is missing or truncated; or
        `out` holds other files or cannot be written.
    """
    started = time.perf_counter()
    if not folders:
        raise EtpError("--parts: name the folders of all parts")
    parts = {folder: _read(folder) for folder in folders}
    ordered = _in_order(parts)
    head, shards = parts[ordered[0]]["head"], parts[ordered[0]]["shards"]
    # Part i holds the shards i, i + n, i + 2n, ...
    rounds = zip_longest(*([(folder, note) for note in parts[folder]["notes"]] for folder in ordered))
    placed = [entry for one_of_each in rounds for entry in one_of_each if entry]
    notes = [note for _, note in placed]
    if [note["shard"]["file"] for note in notes] != shards:
        raise EtpError(f"{ordered[0]}: its {PART_FILE} and those of the other parts do not fit; prepare them again")
    sources = {
        inside(folder, note["shard"]["file"], str(folder / PART_FILE), subfolders=False): note["shard"]["bytes"]
        for folder, note in placed
    }
    with disk_errors(out):
        if finished(out, head["preparation"]):
            return BuildSummary(out, Shards(out).build)
        for source, size in sources.items():
            _check_shard(source, size)
        claim(out, head["preparation"], str(WHOLE))
        for source, size in Bar(sources.items(), unit="shard", desc=f"merge {head['name']}"):
            _place(source, out / source.name, size)
        content = finish(out, head, notes)
    return BuildSummary(out, content, sum(note["shard"]["records"] for note in notes), time.perf_counter() - started)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / PART_FILE
    try:
        content = parse_json(read_file(path), PART_TYPES)
    except FileNotFoundError:
        if (folder / BUILD_FILE).exists():
            raise EtpError(f"{folder}: is a finished shard folder, not a part of one") from None
        raise EtpError(f"{folder}: no finished part; run its `etp prep ... --part` command (again)") from None
    except (NotADirectoryError, ValueError) as error:
        raise EtpError(f"{path}: damaged ({error}); prepare the part again") from None
    check_seal(path, content, "prepare the part again")
    return content


def _in_order(parts: dict[Path, dict[str, Any]]) -> list[Path]:
    """The folders by the number of their part; EtpError if they are not all parts of one build, each once."""
    first = next(iter(parts))
    of = parse_part(parts[first]["part"]).of
    places: dict[int, Path] = {}
    for folder, content in parts.items():
        part = parse_part(content["part"])
        salts = [each["head"]["preparation"].get("pseudonyms") for each in (content, parts[first])]
        if salts[0] != salts[1]:
            raise EtpError(f"{folder}: has pseudonyms of another salt than {first}; use one for all parts")
        if any(content[key] != parts[first][key] for key in ("head", "shards")):
            raise EtpError(f"{folder}: is a part of another build than {first}: another source or preparation")
        if part.of != of:
            raise EtpError(f"{folder}: is part {part}, but {first} is one of {of}; all must divide alike")
        if part.number in places:
            raise EtpError(f"{folder}: is part {part} again, as {places[part.number]} is; name every part once")
        places[part.number] = folder
    missing = [str(Part(number, of)) for number in range(1, of + 1) if number not in places]
    if missing:
        raise EtpError(f"{first}: is one of {of} parts; missing: {', '.join(missing)}; name all folders after --parts")
    return [places[number] for number in sorted(places)]


def _check_shard(path: Path, size: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != size:
        defect = "missing" if found is None else f"holds {found} bytes instead of {size}"
        raise EtpError(f"{path}: {defect}; copy the part again, or delete its folder and prepare it again")


def _place(source: Path, target: Path, size: int) -> None:
    """Links or copies a shard into the merged folder, unless an earlier attempt has done so."""
    if target.exists() and target.stat().st_size == size:
        return
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without hard links
        with source.open("rb") as original, whole_file(target) as copy:
            shutil.copyfileobj(original, copy, 2**20)
