# SPDX-License-Identifier: Apache-2.0
"""Large blocks of memory go back to the kernel as soon as they are free.

The first large body that is freed makes glibc raise the size from which a block is mapped by
itself, to 32 MiB at most (mallopt(3), M_MMAP_THRESHOLD): later ones lie on the heap, and what lies
behind them keeps them there. A size that is set is not raised.
"""

import ctypes

#: glibc's number of the parameter (malloc.h).
_M_MMAP_THRESHOLD = -3
_BYTES = 256 * 1024


def return_large_blocks() -> bool:
    """Map blocks of 256 KiB and more by themselves; False where the C library has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _BYTES) == 1
