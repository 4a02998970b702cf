"""As which user an embedded Postgres runs, since it refuses root."""

import ctypes
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tunery.cli.supervisor import ServiceError

CLONE_NEWUSER = 0x10000000
# Programs and data that root's own folders would hide from the user Postgres runs as.
RUNTIME = Path("/var/lib/tunery")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class User:
    """As whom Postgres runs: the owner of its files, and how a child becomes that user."""

    uid: int
    gid: int
    become: Callable[[], None] | None = None


def choose(binaries: Path) -> tuple[User, Path]:
    """As whom Postgres runs, and the binaries that user can read. Postgres refuses root."""
    if os.geteuid() != 0:
        return User(os.geteuid(), os.getegid()), binaries
    # Postgres looks its user up by name, so the namespace borrows one that exists.
    borrowed = next((user for user in pwd.getpwall() if user.pw_uid != 0), None)
    if borrowed:
        become = partial(_enter_namespace, borrowed.pw_uid, borrowed.pw_gid)
        if _runs(binaries / "initdb", become):
            return User(0, os.getegid(), become), binaries
    try:
        nobody = pwd.getpwnam("nobody")
        become = partial(_drop_to, nobody.pw_uid, nobody.pw_gid)
        if not _runs(binaries / "initdb", become):
            binaries = _readable_copy(binaries)
        if _runs(binaries / "initdb", become):
            return User(nobody.pw_uid, nobody.pw_gid, become), binaries
        reason = f"`nobody` cannot run {binaries / 'initdb'}"
    except (KeyError, OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    raise ServiceError(
        "Postgres refuses to run as root, and here root can neither make a user namespace nor run "
        f"it as `nobody` ({reason}): start as another user, or set DATABASE_URL"
    )


def _enter_namespace(uid: int, gid: int) -> None:
    """In a fresh child of root: a user namespace in which root is called `uid`."""
    outer_gid = os.getegid()
    if _libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} 0 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def _drop_to(uid: int, gid: int) -> None:
    os.chdir("/")  # the folder we stand in may be closed to that user
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _runs(program: Path, become: Callable[[], None]) -> bool:
    try:
        probe = subprocess.run(
            [program, "--version"],
            preexec_fn=become,
            cwd="/",
            capture_output=True,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return probe.returncode == 0


def _readable_copy(binaries: Path) -> Path:
    """The Postgres installation copied to where every user can read it, once per release."""
    answer = subprocess.run(
        [binaries / "initdb", "--version"], capture_output=True, text=True, check=True
    )
    package = binaries.parents[1]
    copied = RUNTIME / f"postgres-{answer.stdout.split()[-1]}"
    if not copied.exists():
        unfinished = copied.with_name(f"{copied.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The programs look for the wheel's libraries beside the package.
        for folder in (binaries.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(
                folder,
                unfinished / folder.relative_to(package.parent),
                ignore=shutil.ignore_patterns("include", "*.a"),
            )
        for path in (RUNTIME, unfinished, *unfinished.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & stat.S_IXUSR else 0o444))
        unfinished.rename(copied)
    return copied / binaries.relative_to(package.parent)
