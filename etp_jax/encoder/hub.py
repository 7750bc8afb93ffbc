"""Exported encoders on the Hugging Face Hub: `hf://org/name[@revision]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from etp_jax.errors import EtpError

# Path() collapses the two slashes of "hf://" into one.
_NAME = re.compile(r"(?:hf:/{1,2})?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
# The hub's client passes on the errors of its HTTP library; which library that is depends on the client's version.
# These errors are the base classes of the client's own error.
_HTTP_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)


def is_hub(name: str | Path) -> bool:
    """Whether a name denotes an encoder on the hub."""
    return str(name).startswith("hf:/")


def download(name: str, files: Sequence[str]) -> Path:
    """Downloads an encoder into this machine's hub cache, unless it is there already.

    Args:
      name: `hf://org/name`, with `@` and a branch, tag or commit; by default the newest state.
      files: patterns of the files to download; no others are.

    Returns:
      The folder with the downloaded files.

    Raises:
      EtpError: no such repository or revision, no access to it, or no connection.
    """
    repository, revision = _parse(name)
    with _one_line(name):
        return Path(HfApi().snapshot_download(repository, revision=revision, allow_patterns=list(files)))


def upload(folder: Path, name: str, files: Sequence[str], private: bool) -> str:
    """Uploads an encoder to the hub; files of the same patterns in the repository are replaced.

    Args:
      folder: the exported encoder.
      name: `org/name`; the repository is created if it does not exist.
      files: patterns of the files to upload.
      private: whether a newly created repository is visible to its owners only.

    Returns:
      The URL of the commit.

    Raises:
      EtpError: not logged in, no right to write there, or no connection.
    """
    repository = check_login(name)
    with _one_line(name):
        api, patterns = HfApi(), list(files)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=patterns,
            delete_patterns=patterns,
            commit_message="Upload an ECG encoder with etp-jax",
        )
        return str(commit)


def check_login(name: str) -> str:
    """Returns the repository to upload to; raises EtpError if the name is invalid or the user is not logged in."""
    repository, revision = _parse(name)
    if revision:
        raise EtpError(f"{name}: an encoder is uploaded to the newest state of a repository; omit @{revision}")
    if not get_token():
        raise EtpError(f"{name}: not logged in to the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    return repository


def _parse(name: str) -> tuple[str, str | None]:
    """Splits a name into repository and revision."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise EtpError(f"{name}: is not a name on the Hugging Face Hub; write hf://org/name or hf://org/name@revision")
    return found["repository"], found["revision"]


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns errors of the hub's client into EtpErrors of one line."""
    try:
        yield
    except GatedRepoError:
        raise EtpError(f"{name}: its owners grant access; ask for it on its page, then run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise EtpError(f"{name}: no such repository, or a private one; for a private one run `hf auth login`") from None
    except RevisionNotFoundError:
        raise EtpError(f"{name}: the repository has no such branch, tag or commit") from None
    except HFValidationError as error:
        raise EtpError(f"{name}: is not a name on the Hugging Face Hub ({_first_line(error)})") from None
    except LocalEntryNotFoundError:
        raise EtpError(f"{name}: the hub cannot be reached, and no copy is on this machine; try again online") from None
    except HfHubHTTPError as error:
        raise EtpError(f"{name}: the hub refuses ({_first_line(error)}); see `hf auth whoami`") from None
    except _HTTP_ERRORS as error:
        raise EtpError(f"{name}: the hub cannot be reached ({_first_line(error)}); try again online") from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
