"""How many answers one row may train: to tell them from the rest, a chat template is run twice for
each of them, over all that comes before it.
"""

from collections.abc import Sequence
from itertools import accumulate

import orjson

from tunery.data.rows import Chat, ChatMessage, Faulty, Preference, Row

# Values such as an object or a text that all those runs may come to: some seconds.
MOST_VALUES = 5_000_000
# A message or a call by itself; a text's characters; JSON's, which has a value in few.
MESSAGE_VALUES = 3
CALL_VALUES = 8
TEXT_PER_VALUE = 500
JSON_PER_VALUE = 8
# Chats without tools that have no more messages are far below.
FEW_MESSAGES = 200


def must_not_have_too_many_turns(row: Row) -> None:
    """Raises Faulty."""
    tools = row.tools if isinstance(row, Chat | Preference) else ()
    if isinstance(row, Chat):
        must_end_soon("messages", row.messages, tools)
    elif isinstance(row, Preference):
        must_end_soon("preferred_output", (*row.input, *row.preferred), tools)
        must_end_soon("non_preferred_output", (*row.input, *row.non_preferred), tools)


def must_end_soon(
    at: str, messages: Sequence[ChatMessage], tools: tuple[dict[str, object], ...]
) -> None:
    if len(messages) <= FEW_MESSAGES and not tools:
        return
    first = len(orjson.dumps(tools)) // JSON_PER_VALUE
    until = list(accumulate(map(values_in, messages), initial=first))
    trained = [index for index, message in enumerate(messages) if message.trained]
    if sum(until[index] + until[index + 1] for index in trained) > MOST_VALUES:
        raise Faulty(
            at,
            "too_many_turns",
            f"{len(trained):,} trained answers among {len(messages):,} messages are too many",
            "Split the row, or give weight 0 to the answers that need not be learnt",
        )


def values_in(message: ChatMessage) -> int:
    calls = sum(CALL_VALUES + len(call.arguments) // JSON_PER_VALUE for call in message.tool_calls)
    return MESSAGE_VALUES + calls + len(message.content) // TEXT_PER_VALUE
