"""The files of adapters where a server loads them from. Several servers may share such a folder."""

import logging
import shutil
from pathlib import Path
from tempfile import mkdtemp

from api.serving.endpoints import upstream
from api.storage.storage import Storage
from tunery.errors import TuneryError
from tunery.facts import FileFacts

log = logging.getLogger(__name__)


def lay(storage: Storage, folder: Path, files: list[tuple[str, FileFacts]]) -> None:
    """The adapter's files, each of them checked, whole or not at all. Idempotent. Raises
    `NotTaken`.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise upstream.NotTaken(f"its adapter cannot be written ({error})") from error
    try:
        for key, file in files:
            shutil.copyfile(proven_copy(storage, key, file.sha256), partial / file.name)
        partial.chmod(0o755)  # the server may run as another user
        partial.rename(folder)
    except (OSError, TuneryError) as error:
        remove(partial)
        if not folder.is_dir():
            raise upstream.NotTaken(f"its adapter cannot be written ({error})") from error


def proven_copy(storage: Storage, key: str, digest: str) -> Path:
    """Raises as `Storage.prove`."""
    storage.prove(key, digest)
    return storage.local(key, digest)


def remove(folder: Path) -> None:
    """Idempotent."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the adapter in %s stays behind (%s)", folder, error)
