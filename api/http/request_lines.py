"""One line in the log for each request, refused ones too. It has no address line: a query may hold
a signature, and a path whatever its sender likes.

A refused attempt is recorded here and not in the audit: anyone can make any number of them, and
they must not fill the database.

Whose request it is, and which job's, is on this line and on all others that are logged for it
(`tunery.log_lines.learn`).
"""

import logging

from starlette.types import Scope

from api.http import counts

log = logging.getLogger("api.requests")

# What else of a request's scope is told: who calls, and the code of a refusal.
CALLER = "tunery.caller"
REFUSAL = "tunery.refusal"
# Asked every few seconds by programs that watch.
WATCHED = {"/healthz", "/readyz", "/metrics"}


def tell(scope: Scope, status: int, seconds: float, *, whole: bool) -> None:
    """`whole`: the answer was sent to its end; else the client left, or the server failed."""
    route = counts.route_of(scope)
    if route in WATCHED and status < 400:
        return
    client = scope.get("client")
    facts = {
        "method": counts.method_of(scope),
        "route": route,
        "status": status,
        "ms": round(seconds * 1000),
        "address": client and client[0],
        "code": scope.get(REFUSAL),
        "broken_off": None if whole else True,
    }
    log.info("request", extra=facts)
