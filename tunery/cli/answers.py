"""Answers as they come, and how they are shown: one under the other, or side by side."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletionChunk
from openai.types.completion_usage import CompletionUsage
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tunery.cli.access import Access, in_words
from tunery.cli.show import harmless, plain

# Two answers beside one another are read in no fewer columns.
SIDE_BY_SIDE_COLUMNS = 80
REDRAW_SECONDS = 0.08

Request = dict[str, Any]


@dataclass
class Answer:
    """What one model says. `first` is the second, from the question, in which it began."""

    model: str
    text: str = ""
    reason: str | None = None
    usage: CompletionUsage | None = None
    error: OpenAIError | None = None
    over: bool = False
    asked: float = field(default_factory=time.monotonic)
    first: float | None = None

    async def follow(self, client: AsyncOpenAI, request: Request, news: asyncio.Event) -> None:
        """To its end; `news` is set at each change. When this is cancelled, so is the request."""
        try:
            stream = await client.chat.completions.create(
                model=self.model, stream=True, stream_options={"include_usage": True}, **request
            )
            async with stream:
                async for chunk in stream:
                    self.take(chunk)
                    news.set()
        except OpenAIError as error:
            self.error = error
        finally:
            self.over = True
            news.set()

    def take(self, chunk: ChatCompletionChunk) -> None:
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.reason = choice.finish_reason or self.reason
        if self.first is None and self.text:
            self.first = time.monotonic() - self.asked

    @property
    def facts(self) -> str:
        found = []
        if self.usage:
            found.append(f"{self.usage.completion_tokens:,} tokens")
        if self.first is not None:
            found.append(f"the first after {self.first:.1f} s")
        if self.reason == "length":
            found.append("cut off: no more tokens were left to it")
        if not self.over or not (self.reason or self.error):
            found.append("stopped")
        return ", ".join(found)


class Beside:
    """Answers in columns; of long ones the last lines, as many as there is room for."""

    def __init__(self, answers: Sequence[Answer], access: Access, lines: int | None = None) -> None:
        self.answers, self.access, self.lines = answers, access, lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(padding=(0, 3), expand=True)
        for _ in self.answers:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*(Text(each.model, style="bold") for each in self.answers))
        table.add_row(*(self.body(each) for each in self.answers))
        lines = console.render_lines(table, options.update(height=None))
        for line in lines[-self.lines :] if self.lines else lines:
            yield from line
            yield Segment.line()

    def body(self, answer: Answer) -> Text:
        writes = self.lines is not None and not answer.over
        text = Text(harmless(answer.text) or ("…" if writes else ""))
        if answer.error:
            text.append(f"\n{in_words(answer.error, self.access)}", style="red")
        if answer.facts and not writes:
            text.append(f"\n{answer.facts}", style="dim")
        return text


async def show(
    access: Access, client: AsyncOpenAI, answers: Sequence[Answer], requests: Sequence[Request]
) -> None:
    """Asks, and shows what is said as it comes; what was said by then stays if it is cancelled."""
    news = asyncio.Event()
    console = Console(highlight=False, markup=False)
    wide = console.is_terminal and console.width >= SIDE_BY_SIDE_COLUMNS
    async with asyncio.TaskGroup() as group:
        for answer, request in zip(answers, requests, strict=True):
            group.create_task(answer.follow(client, request, news))
        if len(answers) > 1 and wide:
            await show_beside(access, answers, news, console)
        else:
            await show_below(access, answers, news)


async def show_beside(
    access: Access, answers: Sequence[Answer], news: asyncio.Event, console: Console
) -> None:
    view = Beside(answers, access, lines=console.height - 1)
    try:
        with Live(view, console=console, transient=True, auto_refresh=False) as live:
            while not all(answer.over for answer in answers):
                await news.wait()
                news.clear()
                live.refresh()
                await asyncio.sleep(REDRAW_SECONDS)
    finally:
        console.print(Beside(answers, access))


async def show_below(access: Access, answers: Sequence[Answer], news: asyncio.Event) -> None:
    clean = harmless if sys.stdout.isatty() else str
    beside = plain(as_json=True)
    for number, answer in enumerate(answers):
        shown = 0
        if len(answers) > 1:
            sys.stdout.write(f"{chr(10) if number else ''}{answer.model}:\n")
        try:
            while True:
                news.clear()
                sys.stdout.write(clean(answer.text[shown:]))
                sys.stdout.flush()
                shown = len(answer.text)
                if answer.over:
                    break
                await news.wait()
        finally:
            if shown or not answer.over:
                sys.stdout.write("\n")
                sys.stdout.flush()
        if answer.error:
            beside.print(f"tunery: {in_words(answer.error, access)}")
        elif beside.is_terminal:
            beside.print(answer.facts, style="dim")
