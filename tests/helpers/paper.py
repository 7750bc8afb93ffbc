"""What is wrong with an ECG on paper: samples outside, and rows or names that are crossed."""

from __future__ import annotations

from itertools import pairwise

from etp_jax.report.ecg_paper import MM, Paper

LABEL_BOX = 8 * MM, 3 * MM
"""Width and height of the longest name, `aVR`, at the page's font size."""


def faults(paper: Paper) -> list[str]:
    """Counts, from the drawn coordinates alone, what leaves the paper or crosses something else."""
    found = []
    drawn = [strip for strip in paper.strips if len(strip.x)]
    for strip in drawn:
        outside = (strip.x < 0) | (strip.x > paper.width) | (strip.y < 0) | (strip.y > paper.height)
        if outside.any():
            found.append(f"{outside.sum()} samples of {strip.lead} outside")
        (x, y), (width, height) = strip.label, LABEL_BOX
        for other in drawn:
            crossed = (other.x >= x) & (other.x <= x + width) & (other.y >= y - height) & (other.y <= y)
            if crossed.any():
                found.append(f"{other.lead} crosses the name of {strip.lead}")
    lowest = {row: max(int(s.y.max()) for s in drawn if s.row == row) for row in {s.row for s in drawn}}
    highest = {row: min(int(s.y.min()) for s in drawn if s.row == row) for row in lowest}
    found += [f"rows {a} and {b} overlap" for a, b in pairwise(sorted(lowest)) if lowest[a] >= highest[b]]
    found += [f"{s.lead} crosses the next" for s, n in pairwise(drawn) if s.row == n.row and s.x[-1] > n.x[0]]
    return found
