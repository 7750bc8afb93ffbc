"""`python -m etp_jax` is `etp`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Runs `etp` in a process whose large buffers are in huge pages."""
    restart_with_huge_pages()
    from etp_jax.cli.main import main as etp  # after the restart, which it would make slower

    etp()


def restart_with_huge_pages() -> None:
    """Starts this program again with glibc's huge pages where Linux gives them to those who ask (`madvise`).

    XLA allocates a step's buffers anew each time. On a CPU their page faults took 11 to 19 % of a METS step
    (docs/benchmarks.md). glibc reads its options before Python runs, so only a restart can change them. An environment
    that sets `GLIBC_TUNABLES` is left alone.
    """
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if "GLIBC_TUNABLES" in os.environ or not setting.exists() or "[madvise]" not in setting.read_text():
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
