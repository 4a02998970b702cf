"""Root file systems as an engine would make them, and programs that run in them: `chroot` in place
of containers, with the mounts, the user and the rights that compose gives.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.images import dockerfile

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In place of python:3.12-slim, which only a registry of images has.
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"


@dataclass(frozen=True)
class Mount:
    source: str
    target: str
    options: str = ""


@dataclass
class Root:
    """A folder that is some program's `/`, and what its image says of the program."""

    folder: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    workdir: str = "/"
    cmd: list[str] = field(default_factory=list)

    def script(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        mounts: Sequence[Mount] = (),
        *,
        user: str | None = None,
        as_service: bool = False,
    ) -> str:
        """For `sh` in a mount namespace of its own. A service has a root that is read-only, no
        capability, and no way to get one.
        """
        root = shlex.quote(str(self.folder))
        told = [
            f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
        ]
        for mount in mounts:
            target = f"{root}{mount.target}"
            if mount.source == "tmpfs":
                told.append(f"mount -t tmpfs -o {mount.options} tmpfs {target}")
                continue
            told.append(f"mount --bind {shlex.quote(mount.source)} {target}")
            if mount.options:
                told.append(f"mount -o remount,bind,{mount.options} {target}")
        rights = ""
        if as_service:
            told.append(f"mount -o remount,bind,ro {root}")
            rights = "--no-new-privs --bounding-set=-all --inh-caps=-all"
        user = self.user if user is None else user
        become = f"setpriv --reuid={user} --regid={user} --clear-groups {rights}"
        whole = {"HOME": self.home(user), **self.env, **env}
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in whole.items())
        inside = f"cd {self.workdir} && exec {shlex.join(argv)}"
        told.append(f"exec chroot {root} {become} env -i {words} sh -c {shlex.quote(inside)}")
        return "set -e\n" + "\n".join(told)

    def home(self, user: str) -> str:
        """As an engine sets it, from the image's own list of users."""
        rows = (line.split(":") for line in (self.folder / "etc/passwd").read_text().splitlines())
        return next((row[5] for row in rows if user in {row[0], row[2]}), "/")

    def run(self, argv: Sequence[str], env: Mapping[str, str], mounts: Sequence[Mount]) -> None:
        script = self.script(argv, env, mounts)
        done = subprocess.run(
            [*ISOLATED, "sh", "-c", script], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{shlex.join(argv)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")


def python_base(folder: Path) -> Root:
    """Debian with a Python that takes packages, as that image has. Made once."""
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder, MIRROR],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for mark in folder.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()
        (folder / "usr/bin/python").symlink_to("python3")
        (folder / "made").touch()
    return Root(folder)


def build(base: Root, stage: dockerfile.Stage, into: Path, source: Path) -> Root:
    """Each instruction of a stage on a copy of another root."""
    subprocess.run(["cp", "-a", "--reflink=auto", base.folder, into], check=True)
    made = Root(into, dict(base.env), base.user, base.workdir, list(base.cmd))
    outside = [*own_pip(into), bound(into, "/etc/resolv.conf"), bound(into, CERTIFICATES)]
    arguments: dict[str, str] = {}
    for word, rest in stage.steps:
        if word == "RUN":
            shown = rest if len(rest) < 90 else f"{rest[:87]}..."
            sys.stdout.write(f"{stage.name}: RUN {shown}\n")
            sys.stdout.flush()
            made.run(["sh", "-c", rest], arguments, outside)
        elif word == "COPY":
            copy(rest.split(), made, source)
        elif word == "ENV":
            made.env |= dockerfile.variables(rest)
        elif word == "ARG":
            arguments |= dockerfile.variables(rest)
        elif word == "WORKDIR":
            made.workdir = rest
            (into / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            made.user = rest
        elif word == "CMD":
            made.cmd = dockerfile.command(rest)
    return made


def copy(words: list[str], made: Root, source: Path) -> None:
    *wanted, target = words
    if target not in {".", "./"}:
        raise ValueError(f"COPY to {target} is not known here")
    for path in dockerfile.context(source):
        if wanted == ["."] or str(path) in wanted:
            place = made.folder / made.workdir.lstrip("/") / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, place)


CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def bound(root: Path, path: str) -> Mount:
    """A file or folder of this machine, read-only in the root. To bind to, something must be
    there.
    """
    place = root / path.lstrip("/")
    if Path(path).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    elif not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return Mount(path, path, "ro")


def own_pip(root: Path) -> list[Mount]:
    """What this machine's pip is told, told to the one in the root: its registry, and folders. It
    is mounted for the build and stays out of the image.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    values: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        values[name.rpartition(".")[2]] = value.strip("'")
    config = root.with_name(f"{root.name}.pip.conf")
    config.write_text("[global]\n" + "".join(f"{n} = {v}\n" for n, v in values.items()))
    words = [word for value in values.values() for word in value.split()]
    # An index in a folder links to files beside it.
    paths = [str(Path(word[7:]).parent) for word in words if word.startswith("file:///")]
    paths += [word for word in words if word.startswith("/") and word != CERTIFICATES]
    there = [bound(root, path) for path in dict.fromkeys(paths) if os.path.lexists(path)]
    bound(root, "/etc/pip.conf")
    return [*there, Mount(str(config), "/etc/pip.conf", "ro")]
