"""What a card holds and computes, and the part of `gpu.py` that needs nothing but torch."""

import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_parts import Figures

GB = 1e9


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def memory() -> dict[str, float]:
    """Gigabytes (1e9 bytes) on the card."""
    if device().type == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": round(torch.cuda.memory_allocated() / GB, 2),
        "peak": round(torch.cuda.max_memory_allocated() / GB, 2),
        "free": round(free / GB, 2),
        "total": round(total / GB, 2),
    }


def busy(work: Callable[[], Any], wall: float) -> dict[str, Any]:
    """How much of a workload's wall time (seconds, measured without this) the card computes, and
    its eight longest kernels in shares of its own time."""
    if device().type == "cpu":
        work()
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    rows = [(e.self_device_time_total, e.key) for e in seen.key_averages()]
    total = sum(t for t, _ in rows) or 1
    top = {key[:90]: round(t / total, 3) for t, key in sorted(rows, reverse=True)[:8]}
    return {"card_busy": round(total / 1e6 / wall, 3), "kernels": top}


def synchronise() -> None:
    if device().type != "cpu":
        torch.cuda.synchronize()


@torch.inference_mode()
def attention(figures: Figures, small: bool) -> None:
    """Microseconds of one layer's attention while a token is decoded, three ways: keys repeated for
    every head, as transformers does where there is a mask; PyTorch's own grouped heads; and the
    heads of a group as queries that share a mask."""
    rows, columns, heads, groups, size = (2, 16, 4, 2, 8) if small else (256, 512, 40, 10, 128)
    dtype, place = torch.bfloat16, device()
    query = torch.randn(rows, heads, 1, size, dtype=dtype, device=place)
    store = torch.randn(2, rows, columns + 8, groups, size, dtype=dtype, device=place)
    keys, values = (part[:, :columns].transpose(1, 2) for part in store)
    mask = torch.ones(rows, 1, 1, columns, dtype=torch.bool, device=place)
    mask[:, :, :, columns - 3 :] = False
    sdpa, n = torch.nn.functional.scaled_dot_product_attention, heads // groups

    def repeated() -> torch.Tensor:
        k, v = (
            x[:, :, None].expand(-1, -1, n, -1, -1).reshape(rows, heads, columns, size)
            for x in (keys, values)
        )
        return sdpa(query, k, v, attn_mask=mask)

    def own() -> torch.Tensor:
        return sdpa(query, keys, values, attn_mask=mask, enable_gqa=True)

    def as_queries() -> torch.Tensor:
        grouped = query.view(rows, groups, n, size)
        wide = mask.expand(rows, groups, n, columns)
        return sdpa(grouped, keys, values, attn_mask=wide).view(rows, heads, 1, size)

    expected, found = repeated().float(), {}
    for way in (repeated, own, as_queries):
        try:
            off = float((way().float() - expected).abs().max())
            for _ in range(3):
                way()
            synchronise()
            start = time.perf_counter()
            for _ in range(20):
                way()
            synchronise()
            found[way.__name__] = {
                "microseconds": round((time.perf_counter() - start) / 20 * 1e6, 1),
                "largest_difference": off,
            }
        except RuntimeError as error:
            found[way.__name__] = {"failed": str(error)[:200]}
        figures.add(rows=rows, columns=columns, heads=heads, key_heads=groups, ways=found)
