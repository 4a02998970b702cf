"""A conversation as chat templates know it."""

import json
from typing import Any, NamedTuple, Self

from tunery.data.rows import Chat


class Said(NamedTuple):
    """A conversation as templates know it: OpenAI's messages and tools, with a call's arguments as
    an object. Of `parallel_tool_calls` no template knows.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    @classmethod
    def of(cls, row: Chat) -> Self:
        messages = []
        called: dict[str, str] = {}
        for message in row.messages:
            # OpenAI's newer word for the system role; templates know the older one.
            role = "system" if message.role == "developer" else message.role
            said: dict[str, Any] = {"role": role, "content": message.content}
            if message.tool_calls:
                called |= {call.id: call.name for call in message.tool_calls}
                said["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": json.loads(call.arguments)},
                    }
                    for call in message.tool_calls
                ]
            name = message.name
            if message.tool_call_id:
                said["tool_call_id"] = message.tool_call_id
                # Of the tool OpenAI's message names the call only, some templates want its name.
                name = name or called.get(message.tool_call_id)
            if name:
                said["name"] = name
            messages.append(said)
        return cls(messages, list(row.tools) or None)

    def until(self, index: int) -> "Said":
        return Said(self.messages[:index], self.tools)

    def without_calls(self, index: int) -> "Said":
        """As if one message called no tool."""
        silent = {**self.messages[index]}
        del silent["tool_calls"]
        return self._replace(messages=[*self.messages[:index], silent, *self.messages[index + 1 :]])

    def renamed(self, names: dict[int, str]) -> "Said":
        """As if all tools that these messages call had another name."""
        messages = [*self.messages]
        for index, name in names.items():
            calls = [
                {**call, "function": {**call["function"], "name": name}}
                for call in messages[index]["tool_calls"]
            ]
            messages[index] = {**messages[index], "tool_calls": calls}
        return self._replace(messages=messages)

    def called(self, index: int) -> list[str]:
        """The names of the tools that a message calls."""
        calls = self.messages[index].get("tool_calls", ())
        return [call["function"]["name"] for call in calls]


def overlap(one: str, other: str) -> int:
    """Characters of the longest end of `one` that `other` begins with (Knuth, Morris and Pratt
    1977).
    """
    shorter = [0] * len(other)  # of each beginning, its longest end that it begins with
    length = 0
    for at in range(1, len(other)):
        while length and other[at] != other[length]:
            length = shorter[length - 1]
        length += other[at] == other[length]
        shorter[at] = length
    length = 0
    for char in one:
        while length and (length == len(other) or char != other[length]):
            length = shorter[length - 1]
        length += char == other[length : length + 1]
    return length
