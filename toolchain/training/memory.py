"""Memory of tensors that a process keeps from one step of training to the next."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets malloc reuse large tensors instead of returning them to the kernel, for good.

    Each step allocates what the one before has freed. Pages that come from the kernel are zeroed
    and mapped again every time, which can take a third of the time of a small network on a CPU.
    The process then stays as large as it was at its largest.

    Returns:
        Whether the C library is glibc, which is the one that can be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
