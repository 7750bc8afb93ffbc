"""Data-sheet peaks of accelerators, by JAX's name of the device.

The figures are for dense operations, without sparsity. TPU figures are per JAX device: one chip, or half a chip on v2
and v3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from etp_jax.bench.flops import Step


class Peak(NamedTuple):
    """Peak performance of one device; None is unknown."""

    flops: float | None
    """FLOPs per second."""
    bandwidth: float | None
    """Bytes per second between memory and chip."""
    source: str | None
    """Source of the figures."""


class Sheet(NamedTuple):
    """Peak figures of a data sheet, per second."""

    bfloat16: float
    """FLOPs per second in bfloat16."""
    float32: float
    """FLOPs per second of JAX's default float32 products: TF32 on NVIDIA GPUs, one bfloat16 pass on TPUs."""
    bandwidth: float
    """Bytes per second between memory and chip."""
    source: str
    """Title of the data sheet."""


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
    """Returns the peak of a device.

    Args:
        kind: exact `device_kind` of the device.
        dtype: compute type: bfloat16, float32, or float64, for which no peak is known.
        tflops: peak that replaces the data sheet's, in 10^12 FLOPs per second.
        gb_per_s: bandwidth that replaces the data sheet's, in 10^9 bytes per second.
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
    """Compares a step with the peak of its devices.

    Args:
        step: work of the step, summed over all devices.
        seconds: duration of the step.
        devices: number of devices that ran it.
        best: peak of one device.

    Returns:
        `mfu`: FLOPs per second over the peak. `limit`: `compute` or `memory`, whichever takes longer at its peak.
        `of_roof`: that time over the measured time. Each is None where a peak is unknown.
    """
    compute_s = step.flops / (devices * best.flops) if best.flops else None
    memory_s = step.bytes / (devices * best.bandwidth) if best.bandwidth else None
    result: dict[str, Any] = {"mfu": compute_s and round(compute_s / seconds, 4), "limit": None, "of_roof": None}
    if compute_s and memory_s:
        result["limit"] = "compute" if compute_s > memory_s else "memory"
        result["of_roof"] = round(max(compute_s, memory_s) / seconds, 4)
    return result
