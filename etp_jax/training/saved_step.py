"""A step that was compiled before the run: `etp plan --save` writes the file, `etp train --compiled` loads it.

The file is a line of JSON and the program as `jax.experimental.serialize_executable` writes it. That is a pickle, which
can run any code when it is loaded: load only files that you made. The JSON:
    format: 2
    target: {device (its kind), devices, hosts, jax, jaxlib, compiler (name and version)}
    fingerprint: SHA-256 of the program before compilation (StableHLO) and of `run.deterministic`
    sha256: of the compiled program, so that a damaged one is found before it is loaded
    options, sizes, text_tower: of the run, by dotted name; they only explain why a fingerprint differs
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from etp_jax.config import TrainConfig, to_dict
from etp_jax.errors import EtpError, one_line
from etp_jax.files import has_fields, whole_file
from etp_jax.json_text import parse_json
from etp_jax.models.bert import BertConfig
from etp_jax.paths import regular
from etp_jax.training.parallel import Parallel
from etp_jax.training.program import Program, Sizes, program
from etp_jax.training.resume import flatten

FORMAT = 2
TYPES = {"format": int, "target": dict, "fingerprint": str, "sha256": str}
TYPES |= dict.fromkeys(("options", "sizes", "text_tower"), dict)
"""Types of the fields of the JSON."""
COMPILERS = {"tpu": "libtpu", "gpu": "jax-cuda12-pjrt"}
"""Package of the compiler, by platform; that of CPUs comes with jaxlib."""
NO_PART = "data.shards", "data.stage_dir", "data.check_every", "model.text.pretrained"
"""Options that cannot change the program."""
MOST_NAMED = 4
"""Number of differences that are named where a program is another one."""


def check_options(config: TrainConfig) -> None:
    """Raises EtpError unless a run of these options can use a saved step."""
    if config.run.parallel != "shard_map":
        raise EtpError("a compiled step needs --run.parallel shard_map, whose results are the same")
    if config.data.resident == "auto":
        raise EtpError(
            "a compiled step needs --data.resident never, always or sharded: auto depends on the devices' free memory"
        )


def save(path: Path, config: TrainConfig, sizes: Sizes, parallel: Parallel, built: Program, compiled: Any) -> None:
    """Writes a compiled dispatch.

    Args:
      path: file to write.
      config: the recipe.
      sizes: sizes of the data.
      parallel: the devices, attached or not.
      built: what was compiled.
      compiled: result of the compiler.
    """
    program_bytes, _, _ = serialize_executable.serialize(compiled)
    lowered = built.dispatch.lower(*built.args)
    about = {
        "format": FORMAT,
        "target": target(parallel),
        "fingerprint": fingerprint(lowered, config),
        "sha256": hashlib.sha256(program_bytes).hexdigest(),
        **_explanation(config, sizes, built.bert),
    }
    with whole_file(path) as file:
        file.write(json.dumps(about).encode() + b"\n" + program_bytes)


def is_saved_step(content: bytes) -> bool:
    """Whether a file of this content is one of `save`, of any version."""
    return has_fields("format", "target", "fingerprint")(content.split(b"\n", 1)[0])


class SavedStep:
    """A file of `save`."""

    def __init__(self, path: Path, config: TrainConfig, parallel: Parallel) -> None:
        """Opens the file; needs no data.

        Raises:
          EtpError: it is no such file, is damaged, was compiled for other devices or with another compiler, or the
            options do not allow it.
        """
        check_options(config)
        try:
            first, self._program = regular(path).read_bytes().split(b"\n", 1)
            self._about: dict[str, Any] = parse_json(first, TYPES)
            known = self._about["format"] == FORMAT
        except OSError as error:
            raise EtpError(f"{path}: {error.strerror}; `etp plan --save` writes a compiled step") from None
        except ValueError:
            known = False
        if not known:
            raise EtpError(f"{path}: not a compiled step of this version; make it with `etp plan --save`")
        if hashlib.sha256(self._program).hexdigest() != self._about["sha256"]:
            raise EtpError(f"{path}: the compiled step is damaged; save it again with `etp plan`")
        self._path, self._config, self._parallel = path, config, parallel
        self._refuse_other("was compiled for", self._about["target"], target(parallel))

    def load(self, sizes: Sizes, bert: BertConfig) -> Callable[..., Any]:
        """Returns the dispatch, ready to run.

        Args:
          sizes: sizes of the data.
          bert: sizes of the text tower.

        Raises:
          EtpError: the step of this run is another one, or the file cannot be loaded here.
        """
        built = program(self._config, sizes, self._parallel, bert=bert)
        lowered = built.dispatch.lower(*built.args)
        if fingerprint(lowered, self._config) != self._about["fingerprint"]:
            now = _explanation(self._config, sizes, bert)
            for part in ("sizes", "text_tower", "options"):
                self._refuse_other("is another step, with", self._about[part], now[part])
            raise EtpError(f"{self._path}: is the step of another version of etp-jax; save it again with `etp plan`")
        devices = list(self._parallel.mesh.devices.flat)
        try:
            return serialize_executable.deserialize_and_load(
                self._program,
                lowered.in_tree,
                lowered.out_tree,
                backend=devices[0].client,
                execution_devices=devices,
            )
        except (jax.errors.JaxRuntimeError, ValueError, KeyError) as error:
            raise EtpError(
                f"{self._path}: cannot be loaded on these devices ({one_line(error)}); train without --compiled"
            ) from error

    def _refuse_other(self, what: str, saved: dict[str, Any], now: dict[str, Any]) -> None:
        """Raises EtpError that names the entries that differ."""
        differ = [name for name in now if saved.get(name) != now[name]]
        if differ:
            named = [f"{name} {saved.get(name)} (here {now[name]})" for name in differ[:MOST_NAMED]]
            more = f" and {len(differ) - MOST_NAMED} more" if len(differ) > MOST_NAMED else ""
            raise EtpError(f"{self._path}: {what} {', '.join(named)}{more}; save it again with `etp plan`")


def target(parallel: Parallel) -> dict[str, Any]:
    """Describes the devices that a program is compiled for, and the compiler."""
    devices = list(parallel.mesh.devices.flat)
    package = COMPILERS.get(parallel.platform, "jaxlib")
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "compiler": f"{package} {importlib.metadata.version(package)}",
    }


def fingerprint(lowered: Any, config: TrainConfig) -> str:
    """Returns the fingerprint of a program before compilation."""
    return hashlib.sha256(f"{config.run.deterministic}\n{lowered.as_text()}".encode()).hexdigest()


def _explanation(config: TrainConfig, sizes: Sizes, bert: BertConfig) -> dict[str, Any]:
    options = {name: value for name, value in flatten(to_dict(config)).items() if name not in NO_PART}
    lengths = asdict(sizes) | {"fs": sizes.fs or sizes.samples // 10}
    if config.model.text.frozen:
        del lengths["tokens"]
    explanation = {"options": options, "sizes": lengths, "text_tower": asdict(bert)}
    return json.loads(json.dumps(explanation))  # as it is read again: tuples are lists
