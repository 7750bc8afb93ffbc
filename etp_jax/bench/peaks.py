"""Data-sheet peaks of accelerators, by the name JAX gives the device.

Dense figures, without sparsity. TPU figures are of what JAX calls a device: a chip, on v2 and v3 half of one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from etp_jax.bench.flops import Step


class Peak(NamedTuple):
    """What one device can do at best; None is unknown."""

    flops: float | None
    """A second."""
    bandwidth: float | None
    """Bytes a second between memory and chip."""
    source: str | None


class Sheet(NamedTuple):
    """Figures of a data sheet, a second."""

    bfloat16: float
    float32: float
    """As JAX multiplies float32 by default: TF32 on NVIDIA's, one bfloat16 pass on TPUs."""
    bandwidth: float
    source: str


HOPPER_SXM = 989.4e12, 494.7e12
HOPPER_NVL = 835e12, 417.5e12
AMPERE = 312e12, 156e12
A100 = "NVIDIA A100 Tensor Core GPU data sheet"
H100 = "NVIDIA H100 Tensor Core GPU data sheet"
H200 = "NVIDIA H200 Tensor Core GPU data sheet"

SHEETS = {
    "NVIDIA A100-SXM4-40GB": Sheet(*AMPERE, 1.555e12, A100),
    "NVIDIA A100-SXM4-80GB": Sheet(*AMPERE, 2.039e12, A100),
    "NVIDIA A100-PCIE-40GB": Sheet(*AMPERE, 1.555e12, A100),
    "NVIDIA A100 80GB PCIe": Sheet(*AMPERE, 1.935e12, A100),
    "NVIDIA H100 80GB HBM3": Sheet(*HOPPER_SXM, 3.35e12, H100),
    "NVIDIA H100 PCIe": Sheet(756e12, 378e12, 2.0e12, H100),
    "NVIDIA H100 NVL": Sheet(*HOPPER_NVL, 3.9e12, H100),
    "NVIDIA H200": Sheet(*HOPPER_SXM, 4.8e12, H200),
    "NVIDIA H200 NVL": Sheet(*HOPPER_NVL, 4.8e12, H200),
    "NVIDIA L4": Sheet(121e12, 60e12, 0.3e12, "NVIDIA L4 Tensor Core GPU data sheet"),
    "NVIDIA L40S": Sheet(362e12, 183e12, 0.864e12, "NVIDIA L40S GPU data sheet"),
    "TPU v2": Sheet(22.5e12, 22.5e12, 0.35e12, "Google Cloud TPU v2"),
    "TPU v3": Sheet(61.5e12, 61.5e12, 0.45e12, "Google Cloud TPU v3"),
    "TPU v4": Sheet(275e12, 275e12, 1.228e12, "Google Cloud TPU v4"),
    "TPU v5 lite": Sheet(197e12, 197e12, 0.819e12, "Google Cloud TPU v5e"),
    "TPU v5e": Sheet(197e12, 197e12, 0.819e12, "Google Cloud TPU v5e"),
    "TPU v5": Sheet(459e12, 459e12, 2.765e12, "Google Cloud TPU v5p"),
    "TPU v5p": Sheet(459e12, 459e12, 2.765e12, "Google Cloud TPU v5p"),
    "TPU v6 lite": Sheet(918e12, 918e12, 1.64e12, "Google Cloud TPU v6e"),
    "TPU v6e": Sheet(918e12, 918e12, 1.64e12, "Google Cloud TPU v6e"),
}


def peak(kind: str, dtype: str, tflops: float | None = None, gb_per_s: float | None = None) -> Peak:
    """The peak of a device.

    Args:
        kind: `device_kind`, exactly.
        dtype: compute type: bfloat16, float32 or float64, for which no peak is known.
        tflops: counts instead, 10^12 FLOPs a second.
        gb_per_s: counts instead, 10^9 bytes a second.
    """
    sheet = SHEETS.get(kind)
    known = None if sheet is None else {"bfloat16": sheet.bfloat16, "float32": sheet.float32}.get(dtype)
    given = tflops is not None or gb_per_s is not None
    return Peak(
        flops=known if tflops is None else tflops * 1e12,
        bandwidth=(sheet.bandwidth if sheet else None) if gb_per_s is None else gb_per_s * 1e9,
        source="given" if given else sheet.source if sheet else None,
    )


def against_peak(step: Step, seconds: float, devices: int, best: Peak) -> dict[str, Any]:
    """How a step compares with what its devices can do.

    Args:
        step: what it computes and moves, on all devices together.
        seconds: it took.
        devices: it ran on.
        best: peak of one of them.

    Returns:
        `mfu`: FLOPs a second over the peak. `limit`: `compute` or `memory`, whichever takes longer at its peak.
        `of_roof`: that time over the time taken. None where a peak is unknown.
    """
    compute_s = step.flops / (devices * best.flops) if best.flops else None
    memory_s = step.bytes / (devices * best.bandwidth) if best.bandwidth else None
    result: dict[str, Any] = {"mfu": compute_s and round(compute_s / seconds, 4), "limit": None, "of_roof": None}
    if compute_s and memory_s:
        result["limit"] = "compute" if compute_s > memory_s else "memory"
        result["of_roof"] = round(max(compute_s, memory_s) / seconds, 4)
    return result
