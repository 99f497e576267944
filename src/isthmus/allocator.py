"""How a process of ours holds the memory that it has freed."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
NEVER = -1
LARGEST_KEPT = 1 << 26  # bytes; a larger block goes back to the system when it is freed


def keep_freed_memory() -> bool:
    """Let this process keep the blocks that it frees: its next step asks for the same sizes again.

    glibc gives the end of its heap back to the system whenever enough of it is free, and asks for it anew, page by
    page, at the next step's first activations: a tenth of a training step, and more with many domains
    (docs/decisions/0010-memory-that-is-freed.md). The peak of a process stays what it is.

    For processes that are Isthmus's own, such as its command line. A library must not choose for the program that
    imports it; a program may call this itself, once, before it trains.

    Returns:
        Whether anything was changed: only glibc has the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
