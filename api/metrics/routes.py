"""/metrics, for Prometheus."""

import math
import shutil
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from api.http import counts
from api.http.dependencies import AServer, Scraper
from api.http.routing import Route
from api.metrics.exposition import exposition

router = APIRouter(route_class=Route, tags=["Operations"])


@router.get("/metrics", response_class=PlainTextResponse)
def show(server: AServer, _: Scraper) -> Response:
    """In Prometheus's text format. Prometheus sends a key with the scope `metrics` as a bearer: its
    scrape config says `authorization: {credentials_file: …}`.
    """
    counts.storage_away.set(server.storage.is_away())
    counts.storage_free.set(free_bytes(server.storage.incoming))
    counts.connections.set(server.db.connections_in_use())
    with server.db.as_control() as tx:
        text = exposition(tx, server.settings)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.nan
