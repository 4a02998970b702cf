"""What the chunks of a streamed chat and of a streamed text have in common."""

import time
from collections.abc import Iterator

from api.ids import new_id
from api.serving.request_parts import Sampled
from api.serving.said import UsageObject
from api.serving.sse import Object, error_of, event
from tunery.completions import CompletionPart, Usage
from tunery.errors import TuneryError

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Chunks of that `kind`, as OpenAI calls it, whose id begins with `prefix`."""

    def __init__(self, request: Sampled, *, prefix: str, kind: str) -> None:
        self.usage: Usage | None = None
        options = request.stream_options
        self.tells_usage = bool(options and options.include_usage)
        self.head: Object = {
            "id": new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": None,
        }

    def chunk(self, choices: list[Object], usage: Object | None = None) -> bytes:
        told = {"usage": usage} if self.tells_usage else {}
        return event(self.head | {"choices": choices} | told)

    def said(self, part: CompletionPart) -> Iterator[bytes]:
        self.usage = part.usage or self.usage
        yield from self.choices_of(part)

    def choices_of(self, part: CompletionPart) -> Iterator[bytes]:
        raise NotImplementedError

    def ended(self) -> Iterator[bytes]:
        if self.tells_usage and self.usage:
            yield self.chunk([], UsageObject.of(self.usage).model_dump())
        yield DONE

    def failed(self, error: TuneryError) -> Iterator[bytes]:
        yield event(error_of(error))
