"""The service that the commands talk to when the shell names none, and the key for it: one file of
the user's own, written by `tunery login`, and by `tunery up` where nobody has logged in.
"""

import json
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class BrokenProfile(Exception):
    """The file cannot be read or written; the message says what to do."""


class Profile(BaseModel):
    """`data_dir` is that of the `tunery up` that wrote it; None after a login."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    key: str
    data_dir: Path | None = None


def path() -> Path:
    named = os.environ.get("XDG_CONFIG_HOME", "")  # noqa: TID251
    try:
        folder = Path(named) if named.startswith("/") else Path("~/.config").expanduser()
    except RuntimeError as error:
        raise BrokenProfile(
            "This user has no home directory to keep a login in. Set TUNERY_URL and TUNERY_KEY."
        ) from error
    return folder / "tunery" / "profile.json"


def read() -> Profile | None:
    try:
        text = path().read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenProfile(f"{error.filename} cannot be read: {error.strerror}.") from error
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        raise BrokenProfile(
            f"{path()} is not a login that Tunery wrote. Delete it, and run `tunery login`."
        ) from error


def write(profile: Profile) -> None:
    """For its owner's eyes only, and never half written."""
    to = path()
    try:
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=to.parent, delete=False) as file:  # mode 600
            try:
                json.dump(profile.model_dump(mode="json"), file)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(to)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BrokenProfile(f"{to} cannot be written: {error.strerror}.") from error
