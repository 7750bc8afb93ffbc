"""Pseudonyms: keyed hashes that replace the ids of patients and records before they reach a shard."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from etp_jax.data_prep.archives.archive import Archive, Reject, check_patients, kind_of
from etp_jax.errors import EtpError
from etp_jax.paths import regular

LEAST_BYTES, MOST_BYTES = 16, 4096
"""Shortest and longest salt, in bytes."""
DIGITS = 32
"""Number of hexadecimal digits of a pseudonym: 128 bits."""
METHOD = f"HMAC-SHA256 with a salt, the first {4 * DIGITS} bits"
"""Description, recorded in `build.json`."""


@dataclass(frozen=True)
class Salt:
    """The key of the hashes. Who has it and a list of ids can find the id of a pseudonym."""

    key: bytes = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Salt:
        """Reads the salt from a file; white space at its end does not count.

        Raises:
          EtpError: the file cannot be read, or its content is too short or too long.
        """
        try:
            with regular(file).open("rb") as stream:
                content = stream.read(MOST_BYTES + 1)
        except OSError as error:
            raise EtpError(f"{file}: {error.strerror}; `openssl rand -hex 32 > {file}` makes a salt") from None
        key = content.rstrip()
        if not LEAST_BYTES <= len(key) <= MOST_BYTES:
            raise EtpError(
                f"{file}: holds no salt of {LEAST_BYTES} to {MOST_BYTES} bytes; `openssl rand -hex 32 > FILE` makes one"
            )
        return cls(key)

    @property
    def mark(self) -> str:
        """Identifies the salt in `build.json`, so that parts of different salts are not merged."""
        return self._hash("salt", "")[:16]

    def patient(self, patient_id: str) -> str:
        """Returns the pseudonym of a patient."""
        return self._hash("patient", patient_id)

    def record(self, record_id: str) -> str:
        """Returns the pseudonym of a record. It differs from that of a patient of the same id."""
        return self._hash("record", record_id)

    def _hash(self, kind: str, text: str) -> str:
        return hmac.digest(self.key, f"{kind}\0{text}".encode(errors="surrogatepass"), "sha256").hex()[:DIGITS]


def pseudonymise(archive: Archive, salt: Salt) -> Archive:
    """Replaces all ids of an archive by pseudonyms; splits remain those of the ids.

    The reasons of rejects lose their details, which may quote a cell or name a file.

    Raises:
      EtpError: a patient is in two splits; the message still names the patient.
    """
    check_patients(archive)
    studies = (
        replace(study, record_id=salt.record(study.record_id), patient_id=salt.patient(study.patient_id))
        for study in archive.studies
    )
    return replace(
        archive,
        studies=tuple(studies),
        rejects=tuple(_hidden(archive.rejects, salt)),
        marks={name: tuple(map(salt.record, record_ids)) for name, record_ids in archive.marks.items()},
        pseudonyms={"method": METHOD, "salt": salt.mark},
    )


def _hidden(rejects: Iterable[Reject], salt: Salt) -> Iterable[Reject]:
    for reject in rejects:
        yield replace(reject, record_id=salt.record(reject.record_id), reason=kind_of(reject.reason))
