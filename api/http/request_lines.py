"""One line in the log for each request, refused ones too. It has no address line: a query may hold
a signature, and a path whatever its sender likes.

A refused attempt is recorded here and not in the audit: anyone can make any number of them, and
they must not fill the database.
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
MOST_OF_ID = 64


def tell(scope: Scope, request_id: str, status: int, seconds: float, *, whole: bool) -> None:
    """`whole`: the answer was sent to its end; else the client left, or the server failed."""
    route = counts.route_of(scope)
    if route in WATCHED and status < 400:
        return
    caller, client = scope.get(CALLER), scope.get("client")
    job = scope.get("path_params", {}).get("job_id")
    facts = {
        "request": request_id,
        "method": counts.method_of(scope),
        "route": route,
        "status": status,
        "ms": round(seconds * 1000),
        "project": caller and caller.project_id,
        "key": caller and caller.key_id,
        "address": client and client[0],
        "code": scope.get(REFUSAL),
        "job": job and str(job)[:MOST_OF_ID],
        "broken_off": None if whole else True,
    }
    log.info("request", extra=facts)
