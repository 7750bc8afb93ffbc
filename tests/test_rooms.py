"""The plan of the package: which room may import which, no circles, and rooms that never load jax."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "etp_jax"
FLOORS = (
    ("errors", "metrics", "plain", "json_text", "npz"),
    ("paths", "progress"),
    ("old_options", "files", "ecg", "model_config"),
    ("config",),
    ("losses", "shards", "configs"),
    ("models",),
    ("training", "tasks", "data_prep"),
    ("encoder",),
    ("evaluation", "waveform", "api"),
    ("report",),
    ("predict", "bench"),
    ("reproduce",),
    ("cli",),
)
"""From the ground up: a room imports from lower floors only. docs/architecture.md gives the reasons."""
WITHOUT_JAX = (
    "errors",
    "progress",
    "metrics",
    "plain",
    "json_text",
    "npz",
    "paths",
    "old_options",
    "config",
    "model_config",
    "files",
    "ecg",
    "shards",
    "configs",
    "tasks",
    "data_prep",
)
"""`import etp_jax` itself too."""
ONLY_CLI = ("data_prep",)
"""Rooms that nobody but the command line imports."""


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name; links are followed, as Python follows them."""
    found = {}
    for path in sorted(PACKAGE.glob("**/*.py")) + [
        path for link in ("data_prep", "configs") for path in sorted((PACKAGE / link).glob("**/*.py"))
    ]:
        parts = ("etp_jax", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """The package's modules that a module names in an import anywhere, also inside functions."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: write imports in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
    return {module for module in found if module.split(".")[0] == "etp_jax"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_has_its_floor() -> None:
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms == {name for rooms in FLOORS for name in rooms}


@pytest.mark.parametrize("name", [name for rooms in FLOORS for name in rooms])
def test_a_room_imports_from_lower_floors_only(name: str) -> None:
    climbing = {
        f"{module} imports {other}"
        for module in MODULES
        if room(module) == name
        for other in imports(module)
        if room(other) not in ("", name) and floor(room(other)) >= floor(name)
    }
    assert not climbing


def test_only_the_command_line_reads_raw_archives() -> None:
    users = {
        room(module)
        for module in MODULES
        for other in imports(module)
        if room(other) in ONLY_CLI and room(module) not in ONLY_CLI
    }
    assert users == {"cli"}


def test_there_are_no_circles() -> None:
    """Depth first over the imports of modules; those inside functions count too."""
    finished: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join((*above[above.index(module) :], module))
        if module not in finished:
            for other in sorted(imports(module) - {"etp_jax", module}):
                visit(other, (*above, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


def test_rooms_without_jax_never_load_it() -> None:
    names = [module for module in MODULES if room(module) in WITHOUT_JAX or module == "etp_jax"]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_only_one_module_uses_private_jax() -> None:
    private = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("jax._src")
    }
    assert private <= {"etp_jax.training.jax_private"}
