"""One shape for the log lines of every process: when, how bad, what, and facts by their names.

As text: `2026-11-28 17:00:00.123 INFO message key=value`. As JSON one object a line. A record's
facts are its `extra`, those that `about` and `learn` were told, and those of the whole process.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

Form = Literal["text", "json"]
Level = Literal["info", "warning", "error"]

# What every record has; whatever else it holds was given as `extra`.
USUAL = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message", "websocket", "data",
}  # fmt: skip
# They have handlers and a form of their own.
OWN_LINES = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
# Their informative lines hold whole addresses, and some of ours are signed.
TELL_ADDRESSES = ("httpx", "httpcore", "urllib3", "uvicorn.access")
# A line break would make one line look like two, an escape would write on a terminal.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
PLAIN = re.compile(r"[\w./:{}@+-]+", re.ASCII)

# An engine has a log of its own, as text. Where lines are collected as JSON, its lines are among
# them: whoever passes them on logs them here.
OF_ENGINE = logging.getLogger("engine")

_of_process: dict[str, str] = {}
_about: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)


@contextmanager
def about(**facts: Any) -> Iterator[None]:  # noqa: ANN401
    """Puts these on every line of the block, such as the job that it is for."""
    before = _about.set((_about.get() or {}) | facts)
    try:
        yield
    finally:
        _about.reset(before)


def learn(**facts: Any) -> None:  # noqa: ANN401
    """Puts these on the further lines of the block that this is in, wherever they are logged: its
    threads and tasks share what it is about. Outside any block it does nothing.
    """
    known = _about.get()
    if known is not None:
        known.update(facts)


class Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={quoted(value)}" for name, value in facts_of(record).items())
        line = f"{moment(record)} {record.levelname} {record.getMessage()}"
        trace = trace_of(self, record)
        whole = f"{line}{facts}\n{trace}" if trace else line + facts
        # What goes on in further lines is set in, so that none of them passes for a record.
        return CONTROL.sub(escaped, whole.replace("\n", "\n  "))


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": moment(record).replace(" ", "T") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts_of(record),
        }
        if trace := trace_of(self, record):
            line["trace"] = trace
        return json.dumps(line, default=str)


def configure(form: Form, level: Level, **facts: str) -> None:
    """All of this process's lines go to stderr in this form, with these facts: those of libraries
    too.
    """
    _of_process.clear()
    _of_process.update(facts)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.captureWarnings(True)
    OF_ENGINE.disabled = form != "json"
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in OWN_LINES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    for name in TELL_ADDRESSES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    given = {name: value for name, value in vars(record).items() if name not in USUAL}
    known = {**_of_process, **(_about.get() or {}), **given}
    return {name: value for name, value in known.items() if value is not None}


def moment(record: logging.LogRecord) -> str:
    """UTC."""
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{record.msecs:03.0f}"


def trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def quoted(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
