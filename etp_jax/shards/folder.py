"""A shard folder under construction: it is claimed for one build, then finished by writing `build.json` last."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from etp_jax.errors import EtpError, one_line
from etp_jax.files import SEAL, read_json, sealed, write_text
from etp_jax.json_text import check_types
from etp_jax.shards.reader import SHARD_TYPES, Shards
from etp_jax.shards.record import BUILD_FILE, PART_FILE
from etp_jax.shards.writer import REJECTS, write_metadata

NOTES = ".parts"
"""Subfolder of the shard folder for the build's own files: the claim, and one note per shard."""
CLAIM = "recipe.json"
"""File in that subfolder that holds what the folder is claimed for."""
NOTE_TYPES = {
    **{"split": str, "shard": SHARD_TYPES, "rejects": [{"record_id": str, "split": str, "reason": str}]},
    **{"verdicts": {str: int}, "leads?": {str: int}, "notes?": {str: int}},
}
"""Types of the fields of a note on a shard."""
FINISHED_TYPES = {
    **{"preparation": {str: object}, "rejects": {str: int}, "verdicts": {str: int}},
    "translation?": {str: {"tokens": int, "token_share": float, "reports": int, "report_share": float}},
}
"""Types of the fields of `build.json` that a finished folder has for its summary."""
SHOWN = 20
"""Number of notes that the summary of a build prints; `build.json` holds all."""
SOURCE_HASH_0_1 = "b2324e1b164562fdaedcc3b563e78c810a1517a8c022eb4b46a9116883b1556f"
"""Identifier of translation 1 in version 0.1: a hash of the translation's source text and the glossary."""
GLOSSARY_HASH_0_1 = "63c05c5c180f02741457bb357e71b4dcaf788412fbd27bc11f8eea747250188d"


@dataclass(frozen=True)
class BuildSummary:
    """Result of a build."""

    folder: Path
    build: dict[str, Any]
    """Content of `build.json`."""
    written: int = 0
    """Number of records processed in this run, rejected ones included."""
    seconds: float = 0.0
    """Duration of this run, in seconds; 0 if the folder was already finished."""

    def __str__(self) -> str:
        """Returns the summary that `etp prep` prints."""
        splits = {name: split["records"] for name, split in self.build["splits"].items()}
        rejects = self.build["rejects"]
        lines = [f"records: {sum(splits.values())} ({', '.join(f'{name} {count}' for name, count in splits.items())})"]
        lines += [f"rejected: {sum(rejects.values())}" + (f" (listed in {self.folder / REJECTS})" if rejects else "")]
        lines += counted_lines(self.build, self.folder / BUILD_FILE)
        lines += [
            f"translated, {where}: {share['token_share']:.2%} of {share['tokens']} words, "
            f"{share['report_share']:.2%} of {share['reports']} distinct reports"
            for where, share in self.build.get("translation", {}).items()
        ]
        return "\n".join([*lines, *self.ending()])

    def ending(self) -> list[str]:
        """Returns the last lines of the summary: the duration, and the folder of the shards."""
        time = "none, the folder was finished already"
        if self.seconds:
            time = f"{self.seconds:.1f} s, {self.written / self.seconds:.0f} records/s"
        return [f"time: {time}", f"shards: {self.folder}"]


def counted_lines(counts: dict[str, Any], file: Path) -> list[str]:
    """Formats what `counted` returns.

    Args:
      counts: the counts; folders of version 0.1 have neither `leads_by_verdict` nor `notes`.
      file: the file that holds all notes, for a reader of the first `SHOWN`.
    """
    notes, by_lead = counts.get("notes", {}), counts.get("leads_by_verdict", {})
    lines = [f"  {reason}: {count}" for reason, count in counts["rejects"].items()]
    lines += ["records by quality verdict (a record may have several):"]
    lines += [f"  {verdict}: {count}{_by_lead(verdict, by_lead)}" for verdict, count in counts["verdicts"].items()]
    lines += ["records by what was assumed or left out:"] * bool(notes)
    lines += [f"  {note}: {count}" for note, count in list(notes.items())[:SHOWN]]
    return lines + [f"  and {len(notes) - SHOWN} more, in {file}"] * (len(notes) > SHOWN)


def _by_lead(verdict: str, by_verdict: dict[str, dict[str, int]]) -> str:
    """Formats the number of records with a verdict for each lead, as ` (V5 1, V6 2)`."""
    counts = by_verdict.get(verdict, {})
    return f" ({', '.join(f'{lead} {count}' for lead, count in counts.items())})" if counts else ""


def finished(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether `out` is the finished result of this build; raises EtpError if it is that of another one, or damaged."""
    if not (out / BUILD_FILE).exists():
        return False
    build = Shards(out).build
    try:
        check_types(build, FINISHED_TYPES)
    except ValueError as error:
        raise EtpError(f"{out / BUILD_FILE}: damaged ({error}); delete the folder and prepare it again") from None
    if current_form(build["preparation"]) != current_form(recipe):
        raise EtpError(f"{out}: holds shards of another source or preparation; choose another folder or delete it")
    shutil.rmtree(out / NOTES, ignore_errors=True)  # still present if the build was killed at its very end
    return True


def current_form(recipe: dict[str, Any]) -> dict[str, Any]:
    """Converts a recipe to this version's form, also one written by version 0.1, so that recipes can be compared."""
    recipe = json.loads(json.dumps(recipe))
    if recipe.get("translation_sha256") == SOURCE_HASH_0_1:
        del recipe["translation_sha256"]
        recipe["translation"] = {"version": 1, "glossary_sha256": GLOSSARY_HASH_0_1}
    return recipe


def claim(out: Path, recipe: dict[str, Any], part: str) -> None:
    """Claims `out` for this build; `out` must be new, empty, or begun by the same build of the same part.

    Raises:
      EtpError: `out` is finished, belongs to another build, or holds other files.
    """
    notes, content = out / NOTES, {**recipe, "part": part}
    mark = notes / CLAIM
    if (out / BUILD_FILE).exists() or (out / PART_FILE).exists():
        raise EtpError(f"{out}: holds a finished build or a part of one; choose another folder or delete it")
    if mark.exists():
        if current_form(read_json(mark, f"delete {out} and prepare it again")) != current_form(content):
            raise EtpError(f"{out}: holds an unfinished build of another source, preparation or part; delete it")
        return
    if out.exists() and any(path.name != NOTES for path in out.iterdir()):
        raise EtpError(f"{out}: is not empty and was not begun by `etp prep`; choose another folder")
    notes.mkdir(parents=True, exist_ok=True)
    write_text(mark, json.dumps(content, indent=1))


def write_note(out: Path, file: str, note: dict[str, Any]) -> None:
    """Writes the note on a shard, which marks the shard as written.

    Args:
      out: the shard folder.
      file: file name of the shard.
      note: `split`, `shard` (the shard's entry in `build.json`), `rejects`; and counts of records: `verdicts`, `leads`
        (verdicts on one lead), `notes` (what was assumed or left out).
    """
    write_text(_note_path(out, file), json.dumps(sealed(note)))


def read_note(out: Path, file: str) -> dict[str, Any]:
    """Reads the note that `write_note` wrote on a shard; raises EtpError if it is damaged."""
    note = read_json(_note_path(out, file), "prepare the shard again", NOTE_TYPES)
    return {name: value for name, value in note.items() if name != SEAL}


def is_noted(out: Path, file: str) -> bool:
    """Whether a shard is complete: the note and the file exist, and the file has the size in the note."""
    if not (_note_path(out, file).exists() and (out / file).exists()):
        return False
    try:
        return (out / file).stat().st_size == read_note(out, file)["shard"]["bytes"]
    except EtpError:  # a damaged note counts as none
        return False


def _note_path(out: Path, file: str) -> Path:
    return out / NOTES / f"{file}.json"


def finish(out: Path, head: dict[str, Any], notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Writes rejects and metadata, and removes the build's own files.

    Args:
      out: the shard folder, which holds all shards.
      head: first fields of `build.json`; `rejects` holds the records that were rejected before any shard was written.
      notes: the note on each shard, in the order of the plan.

    Returns:
      The content of `build.json`.
    """
    rejects = head["rejects"] + [reject for note in notes for reject in note["rejects"]]
    splits: dict[str, Any] = {}
    for note in notes:
        split = splits.setdefault(note["split"], {"records": 0, "shards": []})
        split["records"] += note["shard"]["records"]
        split["shards"].append(note["shard"])
    for name in [name for name, split in splits.items() if split["records"] == 0]:
        for shard in splits.pop(name)["shards"]:
            (out / shard["file"]).unlink()
    if not splits:
        reason = rejects[0]["reason"] if rejects else "the table is empty"
        raise EtpError(f"{head['name']}: no usable record; {reason}")
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("record_id", "split", "reason"))
    writer.writerows((reject["record_id"], reject["split"], reject["reason"]) for reject in rejects)
    write_text(out / REJECTS, table.getvalue())
    for leftover in out.glob(".*.tmp"):
        leftover.unlink()
    content = {**head, "splits": splits, **counted(head, notes)}
    try:
        content = write_metadata(out, content)
    except ValueError as error:  # TFDS refuses names and splits that do not match the shards
        raise EtpError(f"{out}: a note does not fit the shards ({one_line(error)}); delete the folder") from None
    shutil.rmtree(out / NOTES)
    return content


def counted(head: dict[str, Any], notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts records, by the reason of their rejection, by quality verdict, and by what was assumed or left out.

    Args:
      head: first fields of `build.json`, with what the archive's tables gave.
      notes: the notes on the shards.

    Returns:
      The fields `rejects`, `verdicts`, `leads_by_verdict` and `notes` of `build.json`.
    """
    rejects = head["rejects"] + [reject for note in notes for reject in note["rejects"]]
    verdicts, leads, assumed = Counter[str](), Counter[str](), Counter[str](head.get("notes", {}))
    for note in notes:
        verdicts.update(note["verdicts"])
        leads.update(note.get("leads", {}))  # the parts of version 0.1 have neither these nor notes
        assumed.update(note.get("notes", {}))
    return {
        "rejects": dict(sorted(Counter(reject["reason"].split(":")[0] for reject in rejects).items())),
        "verdicts": dict(sorted((+verdicts).items())),
        "leads_by_verdict": _leads_by_verdict(leads, head["leads"]),
        "notes": dict(assumed.most_common()),
    }


def _leads_by_verdict(counts: Counter[str], leads: Sequence[str]) -> dict[str, dict[str, int]]:
    """Groups the counts of `flat lead V5` by verdict, then by lead in the shards' order."""
    grouped: dict[str, dict[str, int]] = {}
    places = {lead: place for place, lead in enumerate(leads)}
    for verdict in sorted(counts, key=lambda each: places.get(each.rpartition(" ")[2], len(places))):
        kind, _, lead = verdict.rpartition(" ")
        grouped.setdefault(kind, {})[lead] = counts[verdict]
    return dict(sorted(grouped.items()))
