"""What is around the whole server."""

import asyncio
import logging
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import counts, errors
from api.http.request_lines import tell
from api.ids import new_id
from tunery.log_lines import about

log = logging.getLogger(__name__)

# What a JSON body may have; and for routes that count for themselves.
MAX_JSON_BYTES = 1 << 20
ANY_SIZE = 1 << 62

# Longer than the longest id, and than a filter by all of a job's metadata.
MOST_PATH_BYTES, MOST_QUERY_BYTES = 1_024, 32 << 10

# So much of a body, or its rest, must come within that much waiting for it.
STRETCH_BYTES, STRETCH_SECONDS = 32 << 10, 30

# What a request's scope holds beside ASGI's: its id, headers for whatever answer comes of it, and
# what is to be called when it is over.
REQUEST_ID = "tunery.request_id"
MARKS = "tunery.marks"
LEAVE = "tunery.leave"


class Edge:
    """`x-request-id` and the time taken on every answer, and OpenAI's envelope for what the
    frameworks refuse in plain text, a crash included. HEAD is GET without the body. A request
    with two lengths, and an address without end or with a NUL, which no id holds and Postgres
    refuses, are answered here, and a body that stands still is no longer waited for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        only_head = scope["method"] == "HEAD"
        if only_head:
            scope = {**scope, "method": "GET"}
        answer = Answer(scope, send, only_head=only_head)
        scope[REQUEST_ID] = answer.request_id
        with about(request=answer.request_id):
            await self.answer(scope, receive, answer)

    async def answer(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        try:
            if wrong := fault_of(scope):
                refusal = errors.envelope(400, wrong)
                # What follows on this connection may not be what its client sent as a request.
                refusal.headers["connection"] = "close"
                await refusal(scope, receive, answer.send)
                return
            await self.app(scope, Body(receive), answer.send)
        except ClientDisconnect:
            pass  # its line says so
        except Exception:
            log.exception("a crash")
            # Half an answer can only be broken off.
            if not answer.whole:
                raise
        finally:
            if leave := scope.get(LEAVE):
                leave()
            took = time.monotonic() - answer.began
            tell(scope, answer.status, took, whole=answer.whole)


def fault_of(scope: Scope) -> str | None:
    """What no request may have, in a sentence. Two lengths of one body are an attack: a proxy may
    go by the other one, and take the rest of the body for another client's request.
    """
    path, query = scope["path"], scope["query_string"]
    if "\x00" in path or b"%00" in query:
        return "The address holds a NUL character."
    if len(path.encode(errors="replace")) > MOST_PATH_BYTES or len(query) > MOST_QUERY_BYTES:
        return (
            f"The address is too long: its path has at most {MOST_PATH_BYTES:,} bytes, its query "
            f"{MOST_QUERY_BYTES:,}."
        )
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        return "The request has Content-Length and Transfer-Encoding. Send one of them."
    return None


class Body:
    """A request's body as it comes. What follows its end, a disconnect, may take any time."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.waited = 0.0
        self.came = 0
        self.whole = False

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(STRETCH_SECONDS - self.waited):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "The request's body stands still.") from None
        self.waited += time.monotonic() - began
        self.came += len(message.get("body", b""))
        if self.came >= STRETCH_BYTES:
            self.waited, self.came = 0.0, 0
        self.whole = not message.get("more_body")
        return message


class Answer:
    """One answer on its way out."""

    def __init__(self, scope: Scope, send: Send, *, only_head: bool) -> None:
        self.scope = scope
        self.send_on = send
        self.only_head = only_head
        self.request_id = new_id("req_")
        self.began = time.monotonic()
        self.status = 0
        self.plain = False
        self.plain_text = b""
        self.whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kind = dict(message["headers"]).get(b"content-type", b"")
            self.plain = self.status >= 400 and kind.startswith(b"text/plain")
            if self.plain:
                return
            message["headers"] = [*message["headers"], *self.marks()]
        elif self.plain:
            self.plain_text += message.get("body", b"")
            if not message.get("more_body"):
                await self.send_envelope()
            return
        elif self.only_head:
            self.end()
            await self.send_on({"type": "http.response.body"})
            raise ClientDisconnect  # so that no file is read, and no stream followed, for nobody
        elif not message.get("more_body"):
            self.end()
        await self.send_on(message)

    async def send_envelope(self) -> None:
        answer = errors.in_envelope(self.status, self.plain_text.decode(errors="replace"))
        start = {"type": "http.response.start", "status": self.status}
        headers = [*answer.raw_headers, *self.marks()]
        await self.send_on({**start, "headers": headers})
        self.end()
        await self.send_on({"type": "http.response.body", "body": answer.body})

    def end(self) -> None:
        """The last of it goes out now: who has it all finds it counted."""
        self.whole = True
        counts.answered(self.scope, self.status, time.monotonic() - self.began)

    def marks(self) -> list[tuple[bytes, bytes]]:
        took = f"{(time.monotonic() - self.began) * 1000:.0f}"
        return [
            (b"x-request-id", self.request_id.encode()),
            # What users sent is no script and no page, whatever it looks like.
            (b"x-content-type-options", b"nosniff"),
            (b"openai-processing-ms", took.encode()),
            *self.scope.get(MARKS, ()),
        ]
