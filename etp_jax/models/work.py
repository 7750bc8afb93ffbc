"""The FLOPs and outputs of layers, counted from their shapes; each tower sums them up for `etp bench`.

Only convolutions and matrix products count. A multiply-add is two FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """FLOPs of a part of a model, and the number of values that its convolutions and matrix products output."""

    flops: int
    outputs: int
    normalised: int = 0
    """Those of `outputs` whose normalisation needs statistics of the whole signal: batch and group normalisation."""

    def __add__(self, other: Work) -> Work:
        """Adds the work of two parts."""
        return Work(self.flops + other.flops, self.outputs + other.outputs, self.normalised + other.normalised)

    def __mul__(self, times: int) -> Work:
        """Multiplies the work by a number of equal parts."""
        return Work(self.flops * times, self.outputs * times, self.normalised * times)


def linear(rows: int, inputs: int, features: int) -> Work:
    """Counts a matrix product; for a convolution, `inputs` is kernel length x channels."""
    return Work(2 * rows * inputs * features, rows * features)


def transformer_layer(tokens: int, width: int, inner: int) -> Work:
    """Counts the forward pass of a transformer layer for one sequence; attention scores are FLOPs, but no outputs."""
    dense = linear(tokens, width, 3 * width) + linear(tokens, width, width)
    dense += linear(tokens, width, inner) + linear(tokens, inner, width)
    return dense + Work(2 * 2 * tokens * tokens * width, tokens * width)
