"""`make upgrade`: the release before runs on this schema. FULL=1 takes all its tests of the API,
and ten times the jobs.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.upgrade import locks, previous, rolling

FOLDER = ROOT / "build" / "upgrade"
JOBS, ALL_JOBS = 100_000, 1_000_000
# A selection that touches every table: who creates, claims, uploads, publishes, deletes and pays.
TESTS = (
    "tests/api/db",
    "tests/api/files/test_uploads.py",
    "tests/api/jobs/test_deletions.py",
    "tests/api/jobs/test_lifecycle.py",
    "tests/api/jobs/exports",
    "tests/api/jobs/queue/test_leases.py",
    "tests/api/serving",
    "tests/api/tenants/test_keys.py",
    "tests/api/tenants/test_quotas.py",
    "tests/api/webhooks",
    "tests/api/workers",
)
# They make or unmake the older schema, which is not there.
NOT_THEIRS = [
    f"tests/api/db/test_migrations.py::{name}"
    for name in (
        "test_the_migrations_make_the_tables_of_the_code_and_take_them_back",
        "test_a_migration_steps_back_where_a_table_is_in_use",
    )
]
PARTS = ("tests", "rolling", "locks")


def run_tests(code: Path, *, full: bool) -> str:
    """The older release's own, unmodified, on databases of the newer schema."""
    env = previous.environment(code, ROOT / "tests" / "upgrade") | {"NEWER_CODE": str(ROOT)}
    tests = ("tests/api",) if full else TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "on_newer_schema", "--forks", "2"]
    command += [*(f"--deselect={test}" for test in NOT_THEIRS), *tests]
    # Some depend on how busy the machine is, and these cannot be mended.
    for again in ([], ["--last-failed"]):
        if not subprocess.run([*command, *again], cwd=code, env=env, check=False).returncode:
            break
    else:
        sys.exit("The release before does not work on this schema: see above.")
    return "the tests of the release before pass on this schema"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    args = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    code = previous.check_out()
    for part in args.only or PARTS:
        if part == "tests":
            words = run_tests(code, full=args.full)
        elif part == "rolling":
            words = rolling.roll(FOLDER / part, code)
        else:
            words = locks.wait_under(FOLDER / part, code, ALL_JOBS if args.full else JOBS)
        sys.stdout.write(f"{part}: {words}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
