"""What `tunery up` keeps in its data folder as NAME=VALUE, for a shell and for the next start."""

from collections.abc import Mapping
from pathlib import Path


def read_env(path: Path) -> dict[str, str]:
    """Nothing if there is no such file. Raises `OSError`."""
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """For its owner's eyes only, and never half written."""
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    new.replace(path)
