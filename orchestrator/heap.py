"""The C library's heap: what a process that lives for months has freed goes back to the system.

glibc keeps what is freed for the next time. Once a long block was freed, blocks as long as it come from the heap from
then on, where they leave gaps between what is still in use, and each thread has a heap of its own: a process that takes
one long body after another holds more every hour than it uses. mallopt(3) and malloc_trim(3) are against that; other C
libraries have neither, and their own rules.
"""

import ctypes

#: between two calls of `give_back`, which takes less than a millisecond here
EVERY_SECONDS = 60.0
#: longer blocks are the system's at once when they are freed; what a socket is read into (256 KiB) comes from the heap
#: as before, because to ask the system for each of those costs a third of the door's time
LONG_BYTES = 512 * 1024
_M_MMAP_THRESHOLD = -3  # malloc.h


def settle() -> None:
    """Long blocks never come from the heap, whatever was freed before. For the whole process."""
    _call("mallopt", _M_MMAP_THRESHOLD, LONG_BYTES)


def give_back() -> None:
    """Every page on which nothing is in use."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
