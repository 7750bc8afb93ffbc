"""k nearest neighbours on frozen features: scores by the classes of the most similar training records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.outcome import Outcome
from etp_jax.evaluation.probe import FrozenFeatures, fit_and_score
from etp_jax.metrics.vectors import unit
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

NEIGHBOURS = (1, 3, 10, 30, 100, 300)
"""Candidate numbers of neighbours; the best is chosen on validation records."""
BLOCK = 512
"""Number of records compared at a time."""


@dataclass(frozen=True, kw_only=True)
class Knn(FrozenFeatures):
    """Scores by the nearest training records in the space of frozen features."""

    kind: ClassVar[str] = "knn"


def evaluate(request: Knn, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Scores by nearest neighbours; their number is chosen on other records, see `fit_and_score`."""
    return fit_and_score(request, encoders, shards, Neighbours.fit)


@dataclass(frozen=True)
class Neighbours:
    """Reference records for nearest neighbours, for all candidate numbers of neighbours at once."""

    mean_F: NDArray[np.float32]
    scale_F: NDArray[np.float32]
    """Scale [F] of the standardisation; like `mean_F`, computed from these records."""
    units_NF: NDArray[np.float32]
    y_NC: NDArray[np.bool_]

    @classmethod
    def fit(cls, features_NF: NDArray[np.float32], y_NC: NDArray[np.bool_]) -> Neighbours:
        """Stores the reference records: features [N, F] and classes, bool [N, C]."""
        mean_F, std_F = features_NF.mean(axis=0), features_NF.std(axis=0)
        scale_F: NDArray[np.float32] = np.where(std_F > 0, std_F, np.float32(1))
        return cls(mean_F, scale_F, unit((features_NF - mean_F) / scale_F), y_NC)

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [L, N, C]: for each of L numbers of neighbours, the share of each class among the nearest by cosine.

        Each neighbour has the weight 1 + cosine, which breaks most ties. If there are fewer records, all are used.
        """
        units_NF = unit((features_NF - self.mean_F) / self.scale_F)
        most = min(max(NEIGHBOURS), len(self.y_NC))
        ends = np.minimum(NEIGHBOURS, most) - 1
        blocks = []
        for start in range(0, len(units_NF), BLOCK):
            cosine_BN = units_NF[start : start + BLOCK] @ self.units_NF.T
            nearest_BK = np.argpartition(-cosine_BN, most - 1, axis=1)[:, :most]
            near_BK = np.take_along_axis(cosine_BN, nearest_BK, axis=1)
            order_BK = np.argsort(-near_BK, axis=1, kind="stable")
            weight_BK = 1 + np.take_along_axis(near_BK, order_BK, axis=1)
            found_BKC = self.y_NC[np.take_along_axis(nearest_BK, order_BK, axis=1)]
            sums_BKC = np.cumsum(weight_BK[..., None] * found_BKC, axis=1)[:, ends]
            blocks.append(sums_BKC / np.cumsum(weight_BK, axis=1)[:, ends, None])
        return np.concatenate(blocks).swapaxes(0, 1).astype(np.float32, copy=False)

    def details(self, number: int) -> dict[str, Any]:
        """Number of neighbours of a setting, for the result's rows; all records if there are fewer."""
        return {"neighbours": min(NEIGHBOURS[number], len(self.y_NC))}
