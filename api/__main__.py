"""`python -m api`: the server."""

import argparse
import logging
import os
import resource
import socket
from collections.abc import Sequence

import uvicorn

from api.http.connection import BACKLOG, Connection, connections_within
from api.main import create_app

log = logging.getLogger("uvicorn.error")

# More than any number of connections needs.
MOST_DESCRIPTORS = 1 << 16
FEW_DESCRIPTORS = 1_024
WAITING = 1_024


def serve(host: str, port: int, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Until SIGTERM or Ctrl-C. The headers go out with every answer."""
    config = uvicorn.Config(
        create_app(),
        host,
        port,
        http=Connection,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,  # the app has its own lines
        headers=list(headers),
    )
    make_room()
    Server(config).run()


class Server(uvicorn.Server):
    """The kernel keeps more connections waiting than the event loop takes in at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in self.servers:
            for one in listening.sockets:
                with socket.socket(fileno=os.dup(one.fileno())) as same:
                    same.listen(WAITING)


def make_room() -> None:
    """As many descriptors as the system lets this process have, and connections to fit them."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual != resource.RLIM_INFINITY and usual < MOST_DESCRIPTORS:
        usual = MOST_DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, MOST_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))
    Connection.most = connections_within(usual)
    say = log.warning if 0 < usual < FEW_DESCRIPTORS else log.info
    say("Room for %d connections at once (ulimit -n is %d)", Connection.most, usual)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description="The server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="goes out with every answer",
    )
    asked = parser.parse_args()
    headers = [tuple(header.split(":", 1)) for header in asked.header]
    serve(asked.host, asked.port, headers)


if __name__ == "__main__":
    main()
