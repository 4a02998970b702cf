"""The files without which an attempt cannot begin."""

from collections.abc import Callable
from pathlib import Path

from tunery import messages
from tunery.errors import BytesDamaged, BytesGone
from worker.client import ApiRefused

Fetch = Callable[[messages.FileLink, Path], Path]

# What the API has proven of bytes in storage, by the code that it says so with.
LOST = {BytesGone.code: "gone", BytesDamaged.code: "damaged"}


class BytesLost(Exception):
    """What the job needs is gone from storage, or damaged there. `code` says what and how, such as
    training_file_gone.
    """

    def __init__(self, what: str, name: str, how: str) -> None:
        super().__init__(
            f"{name}, the {what.replace('_', ' ')} of this job, is {how} in the service's storage. "
            "Store it again, or have an operator restore it, and create the job again."
        )
        self.code = f"{what}_{how}"


def needed(what: str, fetch: Fetch, link: messages.FileLink | None, into: Path) -> Path | None:
    """Fetches a file that nothing can stand in for, if it is named. Raises `BytesLost`."""
    if link is None:
        return None
    try:
        return fetch(link, into)
    except ApiRefused as error:
        if error.code in LOST:
            raise BytesLost(what, link.name, LOST[error.code]) from error
        raise
