"""The arithmetic of layers, counted from their shapes; each tower adds it up for `etp bench`.

FLOPs are those of convolutions and matrix products, two for a multiplication and addition.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """FLOPs of a part, and the number of values that its convolutions and matrix products put out."""

    flops: int
    outputs: int

    def __add__(self, other: Work) -> Work:
        """Both parts."""
        return Work(self.flops + other.flops, self.outputs + other.outputs)

    def __mul__(self, times: int) -> Work:
        """A number of such parts."""
        return Work(self.flops * times, self.outputs * times)


def linear(rows: int, inputs: int, features: int) -> Work:
    """A matrix product; a convolution too, whose inputs are kernel length x channels."""
    return Work(2 * rows * inputs * features, rows * features)


def transformer_layer(tokens: int, width: int, inner: int) -> Work:
    """Attention and feed-forward of one sequence, forward; the attention scores count as FLOPs, not as outputs."""
    dense = linear(tokens, width, 3 * width) + linear(tokens, width, width)
    dense += linear(tokens, width, inner) + linear(tokens, inner, width)
    return dense + Work(2 * 2 * tokens * tokens * width, tokens * width)
