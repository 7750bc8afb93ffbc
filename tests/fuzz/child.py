"""The child process that reads files (`bounded_child.py`), with the audit hook of `guard.py`."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

# The libraries of the readers, which do at import what a reader must not do.
import ecgdatakit.parsing  # noqa: F401
import h5py  # noqa: F401
import pyarrow.parquet  # noqa: F401
import scipy.io  # noqa: F401
import soundfile  # noqa: F401

from etp_jax.ecg import bounded_child
from tests.fuzz import guard

FORBIDDEN = 99
"""Exit status after a reader did what it must not."""
answer_to = bounded_child.answer_to


def watched(*request: Any) -> Any:
    """Answers a request, and ends the process at what a reader must not do."""
    guard.watching = True
    try:
        answer = answer_to(*request)
    finally:
        guard.watching = False
        if guard.violations:
            os._exit(FORBIDDEN)
    return answer


if __name__ == "__main__":
    guard.watching = False  # requests are pickled
    guard.install(Path(os.environ["TMPDIR"]))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    bounded_child.answer_to = watched
    bounded_child.serve(Connection(int(sys.argv[1])))
