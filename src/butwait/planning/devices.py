"""Named devices: memory, arithmetic, bandwidth; and how long passes of a model take on one.

A pass takes as long as the slower of two: reading weights and cache from memory, or computing
(Williams et al. 2009, the roofline), at a share of the published figures, and a fixed time for what
the host does.
"""

from dataclasses import dataclass

from butwait.planning.shapes import ModelShape

DECODE_BANDWIDTH, DECODE_FLOPS = 0.6, 0.5
"""Shares of a device's bandwidth and arithmetic that decoding reaches."""
READ_FLOPS = 0.4
"""The share that prefill and scoring reach."""
TRAIN_FLOPS = 0.35
"""The share that training reaches."""
FLOAT32_SLOWER = 8
"""How much slower a GPU trains in float32 than in bfloat16."""
SERVED_PASS_S = 0.004
"""Seconds that vLLM or another server takes for a pass beside the model: assumed, not measured."""
LAYER_S, ROW_S = 0.001, 0.0001
"""Seconds that the in-process engine takes for a layer of a pass, and for a row: 512 rows of
SmolLM2's 30 layers took 0.086 s a pass on an H200 (benchmarks/results/gpu/engine.json)."""
CPU_LAYER_S = 0.0003
"""The same for a layer on a CPU."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device.

    Attributes:
        name: as people call it.
        memory: GB (10^9 bytes) that torch finds there; 80 of a data sheet are GiB. Measured for the
            H200, of the others as people report it.
        flops: dense operations a second in bfloat16 (float32 on a CPU).
        bandwidth: bytes a second.
        source: of these numbers.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    source: str

    @property
    def is_cpu(self) -> bool:
        return self.name.endswith("CPU")


_NVIDIA = "NVIDIA's data sheet"
DEVICES = (
    Device("H200", 150, 989e12, 4.8e12, f"{_NVIDIA}: H200 SXM"),
    Device("H100", 85, 989e12, 3.35e12, f"{_NVIDIA}: H100 SXM"),
    Device("A100-80", 85, 312e12, 2.039e12, f"{_NVIDIA}: A100 80GB SXM"),
    Device("A100-40", 42, 312e12, 1.555e12, f"{_NVIDIA}: A100 40GB SXM"),
    Device("L40S", 47, 362e12, 0.864e12, f"{_NVIDIA}: L40S, without sparsity"),
    Device("RTX 4090", 25, 165e12, 1.008e12, f"{_NVIDIA}: Ada architecture, float32 sums"),
    Device("RTX 3090", 25, 71e12, 0.936e12, f"{_NVIDIA}: GA102 architecture, float32 sums"),
    Device("T4", 15.5, 65e12, 0.3e12, f"{_NVIDIA}: T4; float16, it has no bfloat16"),
    Device("laptop CPU", 16, 0.5e12, 50e9, "assumed: 8 cores with AVX2, two channels of DDR5"),
)


def device_named(name: str) -> Device:
    """The device of the table that a name of torch's means ("NVIDIA H100 80GB HBM3"); the CPU
    where it means none."""
    words = name.casefold()
    marks = {
        "H200": ("h200",),
        "H100": ("h100",),
        "A100-80": ("a100", "80"),
        "A100-40": ("a100",),
        "L40S": ("l40s",),
        "RTX 4090": ("4090",),
        "RTX 3090": ("3090",),
        "T4": ("t4",),
    }
    for device in DEVICES[:-1]:
        if all(mark in words for mark in marks[device.name]):
            return device
    return DEVICES[-1]


def decode_seconds(
    device: Device,
    shape: ModelShape,
    *,
    tokens: float,
    rows: float,
    context: float,
    weight_bytes: float,
    number_bytes: float,
    served: bool,
    spread: int = 1,
) -> float:
    """Seconds to draw so many tokens.

    Args:
        rows: drawn side by side in a pass.
        context: positions that a row has on average.
        weight_bytes: of the whole model, that a pass reads.
        number_bytes: of a number of the cache.
        served: by vLLM or another server, else in this process.
        spread: devices that hold the model together.
    """
    if not tokens:
        return 0.0
    rows = max(1.0, rows)
    cached = shape.cached(context, served=served, devices=spread) * number_bytes
    reading = (weight_bytes / spread + rows * cached) / (device.bandwidth * DECODE_BANDWIDTH)
    computing = shape.forward_flops(rows, context) / (device.flops * DECODE_FLOPS * spread)
    if served:
        host = SERVED_PASS_S
    elif device.is_cpu:
        host = CPU_LAYER_S * shape.layers + ROW_S * rows
    else:
        host = LAYER_S * shape.layers + ROW_S * rows
    return tokens / rows * (max(reading, computing) + host)
