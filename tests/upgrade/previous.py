"""The release before this one, as `migrations/previous_release.toml` names it."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from api.db.revision import PREVIOUS
from tests.conftest import ROOT

FOLDER = ROOT / "build" / "previous"


def check_out() -> Path:
    """Its files, in a folder of their own. Ends the process where git does not have them."""
    commit = PREVIOUS["commit"]
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if found.returncode:
        sys.exit(
            f"The release before this one is commit {commit} (migrations/previous_release.toml), "
            "which this clone does not have. Fetch the whole history: git fetch --unshallow"
        )
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(FOLDER, filter="data")
    return FOLDER


def environment(code: Path, *others: Path) -> dict[str, str]:
    """For a Python that runs the code of that folder, in this environment's packages."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # noqa: TID251
    return kept | {
        "PYTHONPATH": os.pathsep.join(map(str, (code, *others))),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
