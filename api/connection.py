"""A connection that waits for its client no longer than is decent: `uvicorn --http`."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30


class Connection(H11Protocol):
    """uvicorn's own waits without end for a head that has begun, and for what is left of a body
    that was answered already. Here both have `HEAD_SECONDS`, from the connection's beginning or
    the last answer's end. How long a body may take is `api.edge`'s affair.
    """

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.deadline:
            self.deadline.cancel()

    def wait_for_head(self) -> None:
        if self.deadline:
            self.deadline.cancel()
        self.deadline = self.loop.call_later(HEAD_SECONDS, self.close_without_request)

    def close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.timeout_keep_alive_handler()
