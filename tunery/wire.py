"""What the messages between a worker and the API are made of."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from tunery.fields import Described

LONGEST_TEXT = 8_192


def readable(text: str) -> str:
    """For people; Postgres keeps no NUL. What goes on and on is cut: a worker that found a fault
    must not fail for telling it at length.
    """
    text = text.replace("\x00", "")
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 2]} …"


def last_words(log: str) -> str:
    """The end of a log: that is where the fault is."""
    return log.replace("\x00", "")[-LONGEST_TEXT:]


Text = Annotated[str, AfterValidator(readable), Field(json_schema_extra={"x-cut-at": LONGEST_TEXT})]
LogTail = Annotated[
    str, AfterValidator(last_words), Field(json_schema_extra={"x-cut-at": LONGEST_TEXT})
]
# Up to what every JSON reader holds exactly.
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]


class Message(Described):
    model_config = ConfigDict(extra="forbid")


class Answer(Described):
    """From the API to a worker, which may be older."""

    model_config = ConfigDict(extra="ignore")
