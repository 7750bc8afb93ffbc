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

# A path made of the name has one slash only.
_NAME = re.compile(r"(?:hf:/{1,2})?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
# The hub's client lets the errors of its HTTP library pass. Which library depends on the client's version; its errors
# are the bases of the client's own.
_HTTP_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)


def is_hub(name: str | Path) -> bool:
    """Whether a name is that of an encoder on the hub."""
    return str(name).startswith("hf:/")


def download(name: str, files: Sequence[str]) -> Path:
    """Brings an encoder into the hub's cache on this machine, or finds it there.

    Args:
      name: `hf://org/name`, with `@` and a branch, tag or commit if it is not to be the newest.
      files: patterns of the files to bring; all others stay there.

    Returns:
      The folder that holds them.

    Raises:
      EtpError: no such repository or revision, no access to it, or no connection.
    """
    repository, revision = _parse(name)
    with _one_line(name):
        return Path(HfApi().snapshot_download(repository, revision=revision, allow_patterns=list(files)))


def upload(folder: Path, name: str, files: Sequence[str], private: bool) -> str:
    """Sends an encoder to the hub, in place of what the repository held of the same files.

    Args:
      folder: the exported encoder.
      name: `org/name`; the repository is made if it is not there.
      files: patterns of the files to send.
      private: whether a repository that is made is visible to its owners only.

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
    """The repository to send to; raises EtpError if that is no name, or nobody is logged in."""
    repository, revision = _parse(name)
    if revision:
        raise EtpError(f"{name}: an encoder is sent to the newest state of a repository; leave @{revision} away")
    if not get_token():
        raise EtpError(f"{name}: not logged in to the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    return repository


def _parse(name: str) -> tuple[str, str | None]:
    """Repository and revision."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise EtpError(f"{name}: is no name on the Hugging Face Hub; write hf://org/name or hf://org/name@revision")
    return found["repository"], found["revision"]


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns what the hub's client raises into one line."""
    try:
        yield
    except GatedRepoError:
        raise EtpError(f"{name}: its owners grant access; ask for it on its page, then run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise EtpError(f"{name}: no such repository, or a private one; for a private one run `hf auth login`") from None
    except RevisionNotFoundError:
        raise EtpError(f"{name}: the repository has no such branch, tag or commit") from None
    except HFValidationError as error:
        raise EtpError(f"{name}: is no name on the Hugging Face Hub ({_first_line(error)})") from None
    except LocalEntryNotFoundError:
        raise EtpError(f"{name}: the hub cannot be reached, and no copy is on this machine; try again online") from None
    except HfHubHTTPError as error:
        raise EtpError(f"{name}: the hub refuses ({_first_line(error)}); see `hf auth whoami`") from None
    except _HTTP_ERRORS as error:
        raise EtpError(f"{name}: the hub cannot be reached ({_first_line(error)}); try again online") from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
