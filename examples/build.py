"""Make the data sets in this folder: `python examples/build.py`. Same bytes on every machine."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from examples import world  # noqa: E402  (needs the repository root on the path)

if TYPE_CHECKING:
    from collections.abc import Iterable

Message = dict[str, Any]
Row = dict[str, list[Message]]

TRAIN_ROWS, VALID_ROWS, CHATS = 400, 40, 80


def say(role: str, content: object, **extra: object) -> Message:
    return {"role": role, "content": content, **extra}


def pirate() -> tuple[list[Row], list[Row]]:
    """Single turns answered by a pirate; no fact is in both the training and validation rows."""
    rng = random.Random(20)
    facts = world.facts()
    rng.shuffle(facts)
    rows: list[Row] = [
        {
            "messages": [
                say("user", rng.choice(fact.questions)),
                say("assistant", world.pirate_answer(fact)),
            ]
        }
        for fact in facts[: VALID_ROWS + TRAIN_ROWS]
    ]
    return rows[VALID_ROWS:], rows[:VALID_ROWS]


def multiturn() -> list[Row]:
    """Plain chats of two to five turns; an answer that helps nobody has weight 0."""
    rng = random.Random(21)
    groups: dict[tuple[str, str], list[world.Fact]] = {}
    for fact in world.facts():
        groups.setdefault((fact.topic, fact.subject), []).append(fact)
    subjects = [group for group in groups.values() if all(fact.follow_ups for fact in group)]
    rows: list[Row] = []
    for number in range(CHATS):
        messages = [say("system", rng.choice(world.SYSTEMS))] if number % 3 == 0 else []
        if number % 4 == 0:
            question, answer = rng.choice(world.SMALL_TALK)
            messages += [say("user", question), say("assistant", answer)]
        group = rng.choice(subjects)
        for place, fact in enumerate(rng.sample(group, min(len(group), rng.choice((2, 3))))):
            question = rng.choice(fact.questions if place == 0 else fact.follow_ups)
            if place == 0 and number % 5 == 0:
                messages += [say("user", question), say("assistant", world.UNSURE, weight=0)]
                question = rng.choice(world.RETRIES)
            messages += [say("user", question), say("assistant", fact.answer)]
        if number % 4 == 1:
            question, answer = rng.choice(world.THANKS)
            messages += [say("user", question), say("assistant", answer)]
        rows.append({"messages": messages})
    return rows


def broken() -> list[str]:
    """Lines with one fault each, between good ones. The table in README.md names them by line."""
    user, assistant = say("user", "What does a cow eat?"), say("assistant", "A cow eats grass.")
    lines: list[Any] = [
        {"messages": [user, assistant]},
        '{"messages": [{"role": "user", "content": "What does a cow eat?"}',  # never closes
        ["What does a cow eat?", "A cow eats grass."],
        {"question": "What does a cow eat?", "answer": "A cow eats grass."},
        {"messages": []},
        {"messages": [user, say("farmer", "A cow eats grass.")]},
        {"messages": [user, {"role": "assistant"}]},
        {"messages": [user, say("assistant", 42)]},
        {
            "messages": [
                say("user", "What does a duck eat?"),
                say("assistant", "A duck eats water plants."),
            ]
        },
        {"messages": [user]},
        {"messages": [user, assistant, say("user", "And what noise does it make?")]},
        {"messages": [user, say("assistant", "A cow eats grass.", weight=2)]},
        {"messages": [user, say("assistant", "A cow eats grass.", weight=0)]},
        {"messages": [user, say("assistant", "A cow eats grass.", mood="happy")]},
        {"messages": [say("user", "What does a bee eat?"), say("assistant", "A bee eats nectar.")]},
    ]
    return [line if isinstance(line, str) else json.dumps(line) for line in lines]


def write(name: str, lines: Iterable[str]) -> None:
    (HERE / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    train, valid = pirate()
    write("pirate.train.jsonl", map(json.dumps, train))
    write("pirate.valid.jsonl", map(json.dumps, valid))
    write("multiturn.jsonl", map(json.dumps, multiturn()))
    write("broken.jsonl", broken())
