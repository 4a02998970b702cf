"""What is taken of the data sets of a LLaMA-Factory config."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunery.cli.configs import llamafactory
from tunery.cli.configs.rows import Joined

ASKED = {
    "instruction": "Add.", "input": "1 and 2", "output": "3", "system": "Be brief.",
    "history": [["Hi.", "Ho."]],
}  # fmt: skip
ALL = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
TURNS = [
    {"role": "person", "text": "Hi."},
    {"role": "model", "text": "Ho."},
    {"role": "person", "text": "Why?"},
    {"role": "model", "text": "So."},
]
TAGS = {
    "role_tag": "role", "content_tag": "text", "user_tag": "person", "assistant_tag": "model",
}  # fmt: skip


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def model(text: str, **more: Any) -> Any:
    return {"role": "assistant", "content": text, **more}


def wanted_of(folder: Path, row: Any, entry: Any, **config: Any) -> Any:
    (folder / "rows.json").write_text(json.dumps([row] * 3))
    entries = {"mine": {"file_name": "rows.json", **entry}}
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    asked = {"model_name_or_path": "qwen3", "dataset": "mine", "dataset_dir": str(folder)}
    return llamafactory.wanted_of(asked | config, folder=folder)


@pytest.mark.parametrize(
    ("row", "entry", "config", "becomes"),
    [
        (ASKED, {}, {}, {"messages": [user("Add.\n1 and 2"), model("3")]}),
        (ASKED, {"columns": ALL | {"system": "system"}}, {}, {"messages": [
            {"role": "system", "content": "Be brief."},
            user("Hi."), model("Ho."), user("Add.\n1 and 2"), model("3"),
        ]}),
        (ASKED, {"columns": ALL}, {"mask_history": True, "default_system": "Be kind."}, {
            "messages": [
                {"role": "system", "content": "Be kind."},
                user("Hi."), model("Ho.", weight=0), user("Add.\n1 and 2"), model("3"),
            ]
        }),
        (ASKED, {"columns": {"prompt": "input", "response": "output"}}, {}, {
            "messages": [user("1 and 2"), model("3")],
        }),
        ({"doc": "Once."}, {"columns": {"prompt": "doc"}}, {"stage": "pt"}, {"text": "Once."}),
        (
            {"q": "Why?", "good": "So.", "bad": "No."},
            {"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
            {"stage": "dpo"},
            {
                "input": {"messages": [user("Why?")]},
                "preferred_output": [model("So.")],
                "non_preferred_output": [model("No.")],
            },
        ),
        (
            {"talk": TURNS, "who": "Be kind.", "with": '[{"name": "f"}]'},
            {"formatting": "sharegpt", "tags": TAGS,
             "columns": {"messages": "talk", "system": "who", "tools": "with"}},
            {"mask_history": True},
            {
                "tools": [{"name": "f"}], "system": "Be kind.",
                "conversations": [
                    {"from": "human", "value": "Hi."},
                    {"from": "gpt", "value": "Ho.", "weight": 0},
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "So."},
                ],
            },
        ),
        (
            {"talk": TURNS[:1], "good": TURNS[1], "bad": TURNS[3]},
            {"formatting": "sharegpt", "tags": TAGS, "ranking": True,
             "columns": {"messages": "talk", "chosen": "good", "rejected": "bad"}},
            {"stage": "dpo"},
            {
                "conversations": [{"from": "human", "value": "Hi."}],
                "chosen": {"from": "gpt", "value": "Ho."},
                "rejected": {"from": "gpt", "value": "So."},
            },
        ),
        (
            {"talk": TURNS[:2]},
            {"formatting": "openai", "tags": TAGS, "columns": {"messages": "talk"}},
            {},
            {"messages": [user("Hi."), model("Ho.")]},
        ),
    ],
)  # fmt: skip
def test_a_row_is_sent_as_llamafactory_would_train_it(
    tmp_path: Path, row: Any, entry: Any, config: Any, becomes: Any
) -> None:
    wanted = wanted_of(tmp_path, row, entry, max_samples=2, **config)
    assert not wanted.refused
    assert isinstance(wanted.training, Joined)
    made = wanted.training.file(tmp_path / "made")
    assert [json.loads(line) for line in made.read_text().splitlines()] == [becomes] * 2


@pytest.mark.parametrize(
    ("entry", "config", "says"),
    [
        ({"columns": ALL | {"images": "pictures"}}, {}, "columns: images: pictures (images"),
        ({"columns": ALL | {"kto_tag": "good"}}, {}, "columns: kto_tag (KTO is not offered"),
        ({"columns": {"prompt": "question"}}, {}, "there is no question, which the config names"),
        ({"formatting": "xml"}, {}, "formatting: xml (alpaca, sharegpt, openai)"),
        ({"num_samples": 5}, {}, "num_samples: 5 (chosen by chance"),
        ({"ranking": True}, {}, "ranking: True (stage sft learns from answers"),
        ({"hf_hub_url": "org/set"}, {}, "org/set (it is no file here; give it with --training"),
        ({"columns": ["question"]}, {}, "a mapping, with mappings as columns and tags"),
        ({}, {"max_samples": 0.5}, "max_samples: 0.5 (a number of rows)"),
        ({}, {"dataset": "yours"}, "has none of that name; give it with --training FILE"),
        ({}, {"dataset_dir": "nowhere"}, "nowhere/dataset_info.json; give it with --training"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_name(
    tmp_path: Path, entry: Any, config: Any, says: str
) -> None:
    assert any(says in each for each in wanted_of(tmp_path, ASKED, entry, **config).refused)


def test_columns_that_are_not_named_are_told(tmp_path: Path) -> None:
    dropped = wanted_of(tmp_path, ASKED, {}).dropped
    assert "dataset: mine: history, system (dataset_info.json does not name it)" in dropped


def test_what_llamafactory_does_where_nothing_is_said_is_said(tmp_path: Path) -> None:
    wanted = wanted_of(tmp_path, ASKED, {}, finetuning_type="full")
    assert wanted.body["training"] == {
        "finetuning_type": "full", "max_length": 2048, "micro_batch_size": 8,
        "gradient_accumulation_steps": 1, "learning_rate": 5e-5, "num_epochs": 3,
        "lr_scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0,
    }  # fmt: skip
