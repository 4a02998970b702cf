import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Migrated


def admin(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunery.cli", "admin", *arguments],
        env={"PATH": os.defpath, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_admin_passes_everything_on_to_the_database_it_is_given(
    database_url: str, migrated: Migrated
) -> None:
    listed = admin("list-keys", "--project", "default", DATABASE_URL=database_url)
    assert migrated.key[:18] in listed.stdout
    refused = admin("revoke-key", "key-none", DATABASE_URL=database_url)
    assert (refused.returncode, "key-none" in refused.stderr) == (1, True)


def test_admin_makes_no_data_folder_by_mistake(tmp_path: Path) -> None:
    refused = admin("--data-dir", str(tmp_path / "dat"), "list-keys")
    assert refused.returncode == 1
    assert "--data-dir" in refused.stderr
    assert not (tmp_path / "dat").exists()
