"""Where a second copy of the weights speeds up products in bfloat16 (``products``), and how much
memory it may take. Imports no torch, for plans."""

from functools import cache
from pathlib import Path

SHARE = 0.25
"""Of the memory that is free: a second copy of a model's weights may take so much."""
_FLAGS = {"avx512bw", "avx512dq", "avx512vl"}
"""What the operators need of a processor (oneDNN's rule for bfloat16)."""


@cache
def packs_here() -> bool:
    """Whether this machine's processor is one of them; False where the system does not say."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = (line.partition(":") for line in told.splitlines())
    return any(name.strip() == "flags" and set(flags.split()) >= _FLAGS for name, _, flags in lines)
