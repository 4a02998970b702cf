"""A plugin for the release before: each of its tests' databases has the newer schema. It is run by
that release's pytest, in its folder; NEWER_CODE is the folder of the newer one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import stores

start_stores = stores.start_stores


@contextmanager
def start_migrated(folder: Path) -> Iterator[stores.Stores]:
    """Postgres copies `template1` for each new database. That the older release's own migration
    finds nothing to do there, is part of what is tested.
    """
    with start_stores(folder) as started:
        template = f"{started.postgres_url.rpartition('/')[0]}/template1"
        newer = {"PYTHONPATH": os.environ["NEWER_CODE"], "DATABASE_URL": template}  # noqa: TID251
        migrate = [sys.executable, "-P", "-m", "api.admin", "migrate"]
        subprocess.run(migrate, env=newer, check=True)
        yield started


stores.start_stores = start_migrated
