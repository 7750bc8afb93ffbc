"""Folders of sentence-transformers: which subfolder holds the BERT, and which of their modules are not applied."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from etp_jax.errors import EtpError
from etp_jax.files import read_json
from etp_jax.json_text import parse_json
from etp_jax.paths import inside, read_file

MODULES = "modules.json"
SETTINGS = "sentence_bert_config.json"
ADVICE = "get the file again"


def bert_folder(folder: Path) -> Path:
    """Finds the subfolder with config, weights and tokenizer: the folder itself, or where `modules.json` puts them.

    Raises:
        EtpError: `modules.json` is damaged, or its first module is not a transformer.
    """
    modules = read_modules(folder)
    if not modules:
        return folder
    kind, path = modules[0]
    if kind != "Transformer":
        raise EtpError(f"{folder / MODULES}: the first module is {kind}; only Transformer is supported")
    return path


def differences(folder: Path, pool: str) -> str:
    """Describes how a sentence-transformers model treats texts and outputs differently; "" if it does not.

    Args:
        folder: the folder of the model; other folders differ in nothing.
        pool: `model.text.pool` of the recipe.
    """
    modules = read_modules(folder)
    settings = [path / SETTINGS for _, path in modules[:1] if (path / SETTINGS).exists()]
    lowered = any(read_json(file, ADVICE).get("do_lower_case") is True for file in settings)
    theirs = [name for kind, path in modules[1:] if kind == "Pooling" for name in poolings(path / "config.json")]
    left_out = [kind for kind, _ in modules[1:] if kind != "Pooling"]
    parts = ["lower-cases texts; if its tokenizer does not, add --model.text.lowercase true"] * lowered
    if theirs and theirs != [pool]:
        parts.append(f"pools by {' and '.join(theirs)}, model.text.pool is {pool}")
    if left_out:
        parts.append(f"has modules that are not applied: {', '.join(left_out)}")
    return f"the sentence-transformers model in {folder} {'; '.join(parts)}" if parts else ""


def poolings(file: Path) -> list[str]:
    """Lists the poolings that the config of a Pooling module turns on, by the names of `model.text.pool`."""
    raw = read_json(file, ADVICE)
    newer = raw.get("pooling_mode")  # a name or several; earlier versions have a flag for each
    on = [str(newer)] if newer and not isinstance(newer, list) else newer or [k for k, v in raw.items() if v is True]
    names = [str(key).removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for key in on]
    return [name for name in names if name != "include_prompt"]


def read_modules(folder: Path) -> list[tuple[str, Path]]:
    """Reads the class name and folder of each module; an empty list for folders of other kinds."""
    file = folder / MODULES
    if not file.exists():
        return []
    try:
        entries = parse_json(read_file(file), [{"type": str, "path": str}])
        modules = [(entry["type"].rpartition(".")[2], str(PurePosixPath(entry["path"]))) for entry in entries]
    except (OSError, ValueError) as error:
        raise EtpError(f"{file}: not a list of modules ({error}); {ADVICE}") from None
    return [(kind, inside(folder, path, str(file))) for kind, path in modules]
