"""Which kind of storage an installation has."""

from pathlib import Path

from api.db.session import Database
from api.settings import Bucket, Settings
from api.storage.folder import Folder
from api.storage.storage import Storage


def open_storage(
    settings: Settings, db: Database | None, at: Path | Bucket | None = None
) -> Storage:
    """The settings' own, or another one."""
    place = at or settings.storage
    if isinstance(place, Bucket):
        # Half a second that whoever has a folder need not wait.
        from api.storage.s3 import S3  # noqa: PLC0415

        return S3(place, settings, db)
    return Folder(place, settings.secret.get_secret_value(), db)
