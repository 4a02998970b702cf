"""The token report on a data set for a base model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_template import DEMO, one, with_template
from tunery.data.check import check
from tunery.data.read import read_rows
from tunery.data.rows import Fault
from tunery.data.template import ChatTokenizer, Example
from tunery.data.tokens import TokenReport, measure, percentiles, preview


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = {"user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


def measured(path: Path, tokenizer: ChatTokenizer, **limits: Any) -> TokenReport:
    found = check(path)
    limits = {"max_length": 1_024} | limits
    return measure(path, tokenizer, rows=found.rows, text_bytes=found.text_bytes, **limits)


@pytest.fixture(scope="module")
def demo() -> ChatTokenizer:
    return ChatTokenizer(DEMO)


def test_tokens_are_counted_and_what_is_not_trained_on_as_it_is_is_named(tmp_path: Path) -> None:
    strict = "{% if messages[0]['content'] == 'No' %}{{ raise_exception('never') }}{% endif %}"
    template = (DEMO / "chat_template.jinja").read_text()
    base = with_template(tmp_path, strict + template)
    rows = [
        chat("Hi", "Ahoy"),
        chat("No", "Ahoy"),
        chat("Hi", "word " * 100),
        chat("word " * 100, "Hi"),
    ]
    path = write(tmp_path, *rows)
    found = measured(path, base, max_length=64).as_dict()
    lengths = {
        row.line: one(base, row, 9_999).tokens
        for row in read_rows(path)
        if not isinstance(row, Fault) and row.line != 3
    }
    first, long = (one(base, row, 64) for row in list(read_rows(path))[::2])  # type: ignore[arg-type]
    preview = found.pop("preview")
    assert [row["line"] for row in preview] == [1, 5]
    assert found == {
        "max_length": 64,
        "rows": 4,
        "measured_rows": 4,
        "sampled": False,
        "row_tokens": dict.fromkeys(("p5", "p50"), lengths[1])
        | dict.fromkeys(("p90", "p95", "p99", "max"), lengths[5]),
        "histogram": [
            {"up_to": 16, "rows": 1},
            {"up_to": 32, "rows": 0},
            {"up_to": 64, "rows": 0},
            {"up_to": 128, "rows": 1},
        ],
        "epoch_tokens": lengths[1] + 64,
        "epoch_trained_tokens": first.trained_tokens + long.trained_tokens,
        "split": {"rows": 0, "lines": []},
        "cut": {"rows": 1, "lines": [5]},
        "nothing_to_train": {"rows": 1, "lines": [7]},
        "answer_by_answer": {"rows": 0, "lines": []},
        "adapted": {},
        "reasoning": {"rows": 0, "kept": 0, "dropped": 0},
        "in_pieces": [],
        "lost": {},
        "incomplete_rows": 2,
        "refused": {
            "rows": 1,
            "lines": [
                {"line": 3, "reason": "the base model's chat template refuses the row: never"}
            ],
        },
    }


def test_a_text_is_counted_in_its_parts_and_a_preference_with_both_of_its_answers(
    tmp_path: Path, demo: ChatTokenizer
) -> None:
    text = {"text": "word " * 40}
    whole = len(demo.tokenizer.encode(text["text"]).ids) + 1
    found = measured(write(tmp_path, {"text": "word"}, text), demo, max_length=16).as_dict()
    assert (found["split"], found["cut"]["rows"]) == ({"rows": 1, "lines": [3]}, 0)
    short = len(demo.tokenizer.encode("word").ids) + 1
    assert found["epoch_trained_tokens"] == whole + short - 2
    assert [row["line"] for row in found["preview"]] == [1, 3]
    one, other = chat("Hi", "Ahoy"), chat("Hi", "word " * 9)
    pair = {
        "input": {"messages": one["messages"][:1]},
        "preferred_output": one["messages"][1:],
        "non_preferred_output": other["messages"][1:],
    }
    both = measured(write(tmp_path, one, other), demo).as_dict()
    found = measured(write(tmp_path, pair), demo).as_dict()
    for name in ("epoch_tokens", "epoch_trained_tokens"):
        assert found[name] == both[name]
    assert found["row_tokens"]["max"] == both["epoch_tokens"]
    assert [row["segments"] for row in found["preview"]] == [
        row["segments"] for row in both["preview"]
    ]
    assert measured(write(tmp_path, pair), demo, max_length=16).as_dict()["cut"]["rows"] == 1


def test_percentiles_are_those_of_rows_there_are() -> None:
    assert percentiles([*range(100, 0, -1)]) == {
        "p5": 5, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100
    }  # fmt: skip
    assert percentiles([]) is None


def test_of_a_large_file_rows_from_all_of_it_are_measured_and_it_says_so(
    tmp_path: Path, demo: ChatTokenizer
) -> None:
    rows = (chat("Hi", "word " * (n // 10 if n % 2 else 0)) for n in range(1_000))
    path = write(tmp_path, *rows)
    whole, found = measured(path, demo), measured(path, demo, sample_bytes=10_000)
    assert (whole.as_dict()["sampled"], found.as_dict()["sampled"]) == (False, True)
    assert 60 < found.measured < 100
    assert abs(found.as_dict()["epoch_tokens"] / whole.tokens - 1) < 0.1
    assert [row["line"] for row in found.preview] == [1, 3, 5]
    late = measured(path, demo, seconds=0).as_dict()
    assert (late["measured_rows"], late["epoch_tokens"], late["row_tokens"]) == (0, 0, None)


def test_the_preview_is_the_rows_text_whatever_its_characters_bytes_are_divided_by(
    demo: ChatTokenizer,
) -> None:
    text = "Ahoy 🦜🦜 naïve \N{REPLACEMENT CHARACTER} <|im_end|>"
    ids = demo.tokenizer.encode(text, add_special_tokens=False).ids
    example = Example(7, ids, [place % 2 for place in range(len(ids))], len(ids))
    shown = preview(demo, example)
    assert (shown["line"], shown["tokens"], shown["shortened"]) == (7, len(ids), False)
    assert len(shown["segments"]) == len(ids)
    assert "".join(segment["text"] for segment in shown["segments"]) == text
    assert [segment["trained"] for segment in shown["segments"][:3]] == [False, True, False]
    assert sum("🦜" in segment["text"] for segment in shown["segments"]) == 2
    half = demo.tokenizer.encode("🦜", add_special_tokens=False).ids[:-1]
    [segment] = preview(demo, Example(1, half, [1] * len(half), 9))["segments"]
    assert segment == {"text": "", "trained": True}


def test_the_preview_of_a_long_row_is_its_beginning(demo: ChatTokenizer) -> None:
    ids = demo.tokenizer.encode("word " * 3_000, add_special_tokens=False).ids
    shown = preview(demo, Example(1, ids, [1] * len(ids), len(ids)))
    [segment] = shown["segments"]
    assert shown["shortened"]
    assert 1_000 < len(segment["text"]) < len("word " * 3_000)


def test_a_template_that_takes_all_memory_is_refused_it(tmp_path: Path) -> None:
    with_template(tmp_path, "{{ messages[0]['content'] * 1500000000 }}")
    path = write(tmp_path, chat("Hi", "Ahoy"))
    count = subprocess.run(
        [
            sys.executable,
            "-m",
            "tunery.data.tokens",
            path,
            path.name,
            tmp_path,
            "64",
            "1",
            "6",
            "0",
            "1000",
            "60",
            "",
            "null",
        ],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(count.stdout) == {
        "broken": "the chat template takes more memory than there is for one conversation"
    }
