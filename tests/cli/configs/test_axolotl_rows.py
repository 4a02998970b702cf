"""What is taken of the data sets of an Axolotl config."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunery.cli.configs import axolotl
from tunery.cli.configs.rows import Joined

ASKED: dict[str, Any] = {"instruction": "Say a.", "input": "x", "output": "a"}
ALONE = {"instruction": "Say b.", "output": "b"}
BELOW = "Below is an instruction that describes a task"
RESPOND = "Write a response that appropriately completes the request."
TALK = {
    "messages": [{"role": "user", "content": "No."}],
    "dialogue": [
        {"speaker": "system", "said": "Be kind."},
        {"speaker": "guest", "said": "Hi."},
        {"speaker": "agent", "said": "Ho.", "learn": True, "mused": "Hm."},
    ],
    "functions_here": [{"name": "f"}],
}
SAID: dict[str, Any] = {
    "field_messages": "dialogue",
    "message_property_mappings": {"role": "speaker", "content": "said"},
    "roles": {"user": ["guest"], "assistant": ["agent"]},
}
PAIR = {
    "asked": [{"from": "human", "value": "Hi."}],
    "good": {"from": "gpt", "value": "Ho."},
    "bad": {"from": "gpt", "value": "No."},
}


def rows_of(folder: Path, sets: list[Any], **config: Any) -> list[Any]:
    wanted = axolotl.wanted_of({"base_model": "qwen3", "datasets": sets, **config}, folder=folder)
    assert not wanted.refused
    assert isinstance(wanted.training, Joined)
    return [
        json.loads(line) for line in wanted.training.file(folder / "made").read_text().splitlines()
    ]


def write(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("row", "options", "becomes"),
    [
        (ASKED, {"type": "alpaca"}, {
            "prompt": f"{BELOW}, paired with an input that provides further context. {RESPOND}\n\n"
            "### Instruction:\nSay a.\n\n### Input:\nx\n\n### Response:\n",
            "completion": "a",
        }),
        (ALONE, {"type": "alpaca"}, {
            "prompt": f"{BELOW}. {RESPOND}\n\n### Instruction:\nSay b.\n\n### Response:\n",
            "completion": "b",
        }),
        (ALONE, {"type": "alpaca:chat"}, {
            "prompt": f"SYSTEM: {BELOW}. {RESPOND}\nUSER: Say b.\nASSISTANT:", "completion": "b",
        }),
        (
            {"q": "Why?", "a": "So.", "s": "Be brief."},
            {"type": {
                "field_instruction": "q", "field_output": "a", "field_system": "s",
                "system_format": "[{system}] ", "format": "{instruction} {input}",
                "no_input_format": "Q: {instruction} A: ",
            }},
            {"prompt": "[Be brief.] Q: Why? A: ", "completion": "So."},
        ),
        ({"chapter": "Once.", "text": "No."}, {"type": "completion", "field": "chapter"},
         {"text": "Once."}),
        (TALK, {"type": "chat_template", **SAID, "drop_system_message": True,
                "message_field_training": "learn", "field_thinking": "mused",
                "field_tools": "functions_here"}, {
            "tools": [{"name": "f"}],
            "conversations": [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Ho.", "weight": True,
                 "reasoning_content": "Hm."},
            ],
        }),
        (PAIR, {"type": "chat_template.default", "field_messages": "asked", "field_chosen": "good",
                "field_rejected": "bad",
                "message_property_mappings": {"role": "from", "content": "value"}}, {
            "conversations": PAIR["asked"], "chosen": PAIR["good"], "rejected": PAIR["bad"],
        }),
    ],
)  # fmt: skip
def test_a_row_is_sent_as_axolotl_would_train_it(
    tmp_path: Path, row: Any, options: Any, becomes: Any
) -> None:
    write(tmp_path / "rows.jsonl", row)
    assert rows_of(tmp_path, [{"path": "rows.jsonl", **options}]) == [becomes]


@pytest.mark.parametrize(
    ("split", "taken"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[:25%]", range(2)),  # as `datasets` rounds
        ("train[80%:]", range(8, 10)),
        ("train[2:-7]", range(2, 3)),
    ],
)
def test_of_a_split_so_many_rows_are_taken(tmp_path: Path, split: str, taken: range) -> None:
    write(tmp_path / "rows.jsonl", *({"text": str(number)} for number in range(10)))
    rows = rows_of(tmp_path, [{"path": "rows.jsonl", "split": split}])
    assert [row["text"] for row in rows] == [str(number) for number in taken]


def test_data_sets_follow_each_other_and_a_row_comes_once_if_it_is_to(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", {"text": "a"}, {"text": "b"})
    write(tmp_path / "two.jsonl", {"text": "b"}, {"text": "c"})
    sets = [{"path": "one.jsonl"}, {"path": "json", "data_files": ["two.jsonl"]}]
    assert [row["text"] for row in rows_of(tmp_path, sets)] == ["a", "b", "b", "c"]
    once = rows_of(tmp_path, sets, dataset_exact_deduplication=True)
    assert [row["text"] for row in once] == ["a", "b", "c"]


def test_a_file_stands_for_the_path_and_what_is_beside_that_stays(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", ALONE, ALONE)
    file = tmp_path / "mine.jsonl"
    sets = [{"path": "org/set", "type": "alpaca", "split": "train[:1]", "name": "main"}]
    config = {"base_model": "qwen3", "datasets": sets}
    wanted = axolotl.wanted_of(config, folder=tmp_path, training=file)
    assert isinstance(wanted.training, Joined)
    assert len(wanted.training.file(tmp_path / "made").read_text().splitlines()) == 1
    assert "datasets: split: train[:1] is taken of the rows of mine.jsonl" in wanted.notes
    assert f"datasets: path: org/set, in place of which is {file}" in wanted.dropped
    write(file, {"messages": TALK["messages"]})
    wanted = axolotl.wanted_of(config, folder=tmp_path, training=file)
    assert isinstance(wanted.training, Joined)
    assert wanted.training.sets[0].change is None
    assert any("type: alpaca" in note and "is taken as it is" in note for note in wanted.dropped)
    several = axolotl.wanted_of({"datasets": sets * 2}, folder=tmp_path, training=file)
    assert several.training == file
    assert any("in place of which" in note for note in several.dropped)
