"""What the API costs beside its floor: `make bench-api`.

Server and floor take turns. CPU seconds are user and system time of the server's process; Postgres
is another process and not in them.
"""

import argparse
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.api import bodies, jobs
from benchmarks.api.servers import running

BODY_HEAD = """
| what | floor CPU s/GB | Tunery CPU s/GB | ratio | memory grew MB | MB/s |
|---|---|---|---|---|---|"""
POLL_HEAD = """
| `GET …/jobs/{id}` beside the bare statements for | floor CPU us | Tunery CPU us | ratio |
|---|---|---|---|"""
PAGE_HEAD = """
| jobs with the metadata | page | p50 ms | p99 ms |
|---|---|---|---|"""
PARTS = ("bodies", "polls", "pages")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=float, default=2.0, help="of a file, in GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=1000, help="of a kind")
    asked = parser.parse_args()
    size = int(asked.size * 1e9) >> 20 << 20
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as servers:
        if "bodies" in asked.only:
            print(BODY_HEAD)
            for row in bodies.uploads(servers, size, asked.rounds):
                print(row, flush=True)
            for row in bodies.downloads(servers, size, asked.rounds):
                print(row, flush=True)
        if {"polls", "pages"} & set(asked.only):
            jobs.make(servers, asked.jobs)
        if "polls" in asked.only:
            print(POLL_HEAD)
            for row in jobs.polls(servers, asked.requests, asked.rounds):
                print(row, flush=True)
        if "pages" in asked.only:
            print(PAGE_HEAD)
            for row in jobs.pages(servers, asked.jobs, asked.requests):
                print(row, flush=True)
    packages = ("uvicorn", "h11", "fastapi", "python-multipart", "sqlalchemy", "psycopg")
    print(f"\nPython {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in packages))


if __name__ == "__main__":
    main()
