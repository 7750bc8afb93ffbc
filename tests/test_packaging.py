"""What `make dist` puts into wheel and sdist: the package with all its data, and nothing else."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import etp_jax
from tests.helpers.devices import ROOT

SETUPTOOLS = 77
"""The first major version that reads `license = Apache-2.0`; pyproject.toml names the same."""
NOT_PACKAGED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds `source` by setuptools of this environment, as pip and build do; returns the wheel or the sdist."""
    code = f"from setuptools import build_meta; import sys; build_meta.build_{kind}(sys.argv[1])"
    out.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


def content(wheel: Path) -> dict[str, int]:
    """The CRC of every file of a wheel by its name; without RECORD, which lists them in order of the disk."""
    with zipfile.ZipFile(wheel) as opened:
        return {item.filename: item.CRC for item in opened.infolist() if not item.filename.endswith("RECORD")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads; setuptools writes beside it."""
    try:
        if int(version("setuptools").split(".")[0]) < SETUPTOOLS:
            raise PackageNotFoundError
    except PackageNotFoundError:
        pytest.skip(f"needs setuptools {SETUPTOOLS}, of the extra `test`")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("etp_jax", "data_prep", "configs", "tests"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=NOT_PACKAGED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", checkout, folder / "out")) as opened:
        opened.extractall(folder, filter="data")
    return folder / f"etp_jax-{etp_jax.__version__}"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        text = opened.read(f"etp_jax-{etp_jax.__version__}.dist-info/METADATA").decode()
    return Parser().parsestr(text)


def test_the_wheel_holds_the_package_and_nothing_else(checkout: Path, wheel: Path) -> None:
    """Every module and data file, those behind the links too; no `configs`, `data_prep` or `tests` beside it."""
    package = checkout / "etp_jax"
    roots = (package, *(path.resolve() for path in package.iterdir() if path.is_symlink()))
    expected = {
        str(Path("etp_jax", "" if root == package else root.name, path.relative_to(root)))
        for root in roots
        for path in root.rglob("*")
        if path.is_file()
    }
    names = content(wheel)
    assert {name for name in names if name.split("/")[0] == "etp_jax"} == expected
    assert {name.split("/")[0] for name in names} == {"etp_jax", f"etp_jax-{etp_jax.__version__}.dist-info"}
    for name in (
        "py.typed",
        "configs/ptbxl.py",
        "data_prep/glossary.tsv",
        "data_prep/archives/table.py",
        "pretrained/encoder.safetensors",
        "pretrained/MODEL_CARD.md",
        "report/page.css",
        "waveform/prompt.txt",
    ):
        assert f"etp_jax/{name}" in names


def test_the_sdist_gives_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    assert content(build("wheel", sdist, tmp_path / "out")) == content(wheel)


def test_the_sdist_explains_itself(sdist: Path) -> None:
    names = {path.name for path in sdist.iterdir()}
    assert {"README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff"} <= names
    assert not names & {"tests", "configs", "data_prep"}


def test_metadata_is_complete(metadata: Message, sdist: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert metadata["Version"] == etp_jax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert metadata["Author"] and metadata["Keywords"]
    assert metadata.get_all("Project-URL")
    assert set(metadata.get_all("Provides-Extra", [])) == set(setup["options.extras_require"])
    assert f"version: {etp_jax.__version__}" in (sdist / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {etp_jax.__version__}" in (sdist / "CHANGELOG.md").read_text(encoding="utf-8")
