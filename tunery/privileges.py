"""What keeps a program that holds keys and one that reads strangers' data apart, though both run as
the same user. On Linux; elsewhere neither of the two does anything.
"""

import ctypes
import os
import struct
import sys

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h
CAPABILITY_VERSION = 0x20080522  # linux/capability.h, version 3
# Root still reads and writes files that are not its own: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
KEPT = 1 << 1 | 1 << 2

libc = ctypes.CDLL(None, use_errno=True)


def shut() -> None:
    """No other process of this user can read this one's environment or memory, not even a child.
    What is forked is shut too; what is executed is open again.
    """
    if sys.platform == "linux":
        require(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def give_up() -> None:
    """Root keeps its rights to files and no others, and gets none back by executing something: so
    it cannot look into a parent that is shut. Another user has nothing to give up. For a program's
    main thread, before there are others.
    """
    if sys.platform != "linux":
        return
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    held = ctypes.create_string_buffer(24)
    require(libc.capget(header, held))
    # Twice effective, permitted, inheritable: the second three are the higher numbers.
    _, low, _, _, high, _ = struct.unpack("=6I", held.raw)
    if low | high:
        require(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        require(libc.capset(header, struct.pack("=6I", low & KEPT, low & KEPT, 0, 0, 0, 0)))


def require(answer: int) -> None:
    """Raises OSError if the kernel has refused."""
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
