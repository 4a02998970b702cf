"""How an attempt ended, kept on disk until the API has heard it: a worker that is restarted while
the API is away still delivers.
"""

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from tunery import messages
from tunery.disk import flush

OUTCOME = "outcome.json"


class Outcome(BaseModel):
    """`files` of the results lie in `folder`."""

    lease: messages.Lease
    result: messages.Succeeded | messages.Exported | messages.Failed | messages.Released
    folder: Path

    def keep(self, attempt: Path) -> None:
        """Writes it into the attempt's folder, whole and flushed to disk."""
        partial = attempt / f".{OUTCOME}"
        with partial.open("w") as file:
            file.write(self.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        partial.rename(attempt / OUTCOME)
        flush(attempt)

    @classmethod
    def of(cls, attempt: Path) -> Self | None:
        """What an earlier worker in this folder left undelivered; None if nothing readable."""
        try:
            return cls.model_validate_json((attempt / OUTCOME).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None
