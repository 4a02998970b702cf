"""What outlives a power cut."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Has the disk take a file's bytes, or a folder's list of files, which a rename changes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
