"""What the API costs beside its floor: `make bench-api`.

Server and floor take turns. CPU seconds are user and system time of the server's process; Postgres
is another process and not in them.
"""

import argparse
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.api import bodies
from benchmarks.api.servers import running

BODY_HEAD = """
| what | floor CPU s/GB | Tunery CPU s/GB | ratio | memory grew MB | MB/s |
|---|---|---|---|---|---|"""
PARTS = ("bodies",)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=float, default=2.0, help="of a file, in GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    size = int(asked.size * 1e9) >> 20 << 20
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as servers:
        if "bodies" in asked.only:
            print(BODY_HEAD)
            for row in bodies.uploads(servers, size, asked.rounds):
                print(row, flush=True)
            for row in bodies.downloads(servers, size, asked.rounds):
                print(row, flush=True)
    packages = ("uvicorn", "h11", "fastapi", "python-multipart", "sqlalchemy", "psycopg")
    print(f"\nPython {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in packages))


if __name__ == "__main__":
    main()
