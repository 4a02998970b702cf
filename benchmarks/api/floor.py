"""What the API is measured against: a bare ASGI app on the same uvicorn, without framework, checks
or names. `python -m benchmarks.api.floor PORT FOLDER DATABASE_URL`
"""

import secrets
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import psycopg
import uvicorn
from anyio import to_thread

Message = MutableMapping[str, Any]
CHUNK = 1 << 20
JOB = b"SELECT * FROM job WHERE id = %s"
METADATA = b"SELECT key, value FROM job_metadata WHERE job_id = %s"
KEY = b"""
    SELECT scopes, project.id, project.name FROM api_key JOIN project ON project.id = project_id
    WHERE hash = %s AND revoked_at IS NULL
"""


class Floor:
    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.own = threading.local()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        verb, what, *names = scope["path"].strip("/").split("/")
        if verb == "put":
            body = await self.put(what, receive)
        elif verb == "get":
            await self.stream(what, send)
            return
        elif verb == "job":
            body = await to_thread.run_sync(self.job, dict(scope["headers"]), what, *names)
        else:
            body = b"{}"
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def put(self, name: str, receive: Callable[[], Awaitable[Message]]) -> bytes:
        """The raw body into a file, and its SHA-256."""
        digest = sha256()
        path = self.folder / f"{name}-{secrets.token_hex(8)}"
        with path.open("wb") as file:
            more = True
            while more:
                message = await receive()
                digest.update(message["body"])
                file.write(message["body"])
                more = message["more_body"]
        path.unlink()
        return orjson.dumps({"sha256": digest.hexdigest()})

    async def stream(self, name: str, send: Callable[[Message], Awaitable[None]]) -> None:
        path = self.folder / name
        length = str(path.stat().st_size).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def job(self, headers: dict[bytes, bytes], project_id: str, job_id: str) -> bytes:
        """The statements of `GET /v1/fine_tuning/jobs/{id}`. A key is looked up."""
        connection = self.connection()
        key = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if key:
            connection.execute(b"BEGIN")
            connection.execute(b"SET LOCAL ROLE tunery_control")
            if connection.execute(KEY, (sha256(key).hexdigest(),)).fetchone() is None:
                raise LookupError(key)
            connection.execute(b"COMMIT")
        connection.execute(b"BEGIN")
        connection.execute(b"SET LOCAL ROLE tunery_app")
        connection.execute(b"SELECT set_config('tunery.project', %s, true)", (project_id,))
        cursor = connection.execute(JOB, (job_id,))
        row = cursor.fetchone()
        metadata = dict(connection.execute(METADATA, (job_id,)).fetchall())
        connection.execute(b"COMMIT")
        names = [column.name for column in cursor.description or ()]
        return orjson.dumps({**dict(zip(names, row or (), strict=True)), "metadata": metadata})

    def connection(self) -> psycopg.Connection[Any]:
        """One for each thread."""
        if not hasattr(self.own, "connection"):
            self.own.connection = psycopg.connect(self.database_url, autocommit=True)
        found: psycopg.Connection[Any] = self.own.connection
        return found


if __name__ == "__main__":
    port, folder, database_url = sys.argv[1:]
    uvicorn.run(
        Floor(Path(folder), database_url),
        port=int(port),
        http="h11",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
