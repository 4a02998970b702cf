"""Jobs from what was written for other programs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import BASE, Served
from tunery.cli.main import app

CONFIG: dict[str, Any] = {
    "base_model": BASE,
    "adapter": "qlora",
    "load_in_4bit": True,
    "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
    "val_set_size": 0.0,
    "sequence_len": 128,
    "sample_packing": True,
    "pad_to_sequence_len": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "peft_use_rslora": True,
    "gradient_accumulation_steps": 2,
    "micro_batch_size": 2,
    "num_epochs": 2.0,
    "optimizer": "paged_adamw_8bit",
    "lr_scheduler": "cosine",
    "learning_rate": "2e-4",
    "bf16": "auto",
    "gradient_checkpointing": True,
    "flash_attention": True,
    "logging_steps": 1,
    "weight_decay": 0.01,
    "seed": 5,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
    "output_dir": "./out",
}
ROWS = b'{"instruction": "Say a.", "input": "", "output": "a"}\n' * 10


@pytest.fixture(autouse=True)
def _as_in_client_env(server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    (tmp_path / "rows.jsonl").write_bytes(ROWS)


def run(*words: object) -> tuple[str, int]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.output, done.exit_code


def test_an_axolotl_config_is_a_job_and_what_is_not_ours_is_refused_by_name(
    server: Served, tmp_path: Path
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(CONFIG))
    said, code = run("create", "--axolotl", config, "--no-follow")
    assert code == 0, said
    assert "Left out: flash_attention: True" in said
    (job,) = server.client.fine_tuning.jobs.list().data
    shown = (job.model_extra or {})["tunery"]
    assert job.seed == 5
    assert shown["lora"] == {"r": 8, "alpha": 16, "dropout": 0.05, "rslora": True}
    assert shown["training"].items() >= {
        "n_epochs": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 2e-4,
        "lr_scheduler": "cosine", "optimizer": "paged_adamw_8bit", "weight_decay": 0.01,
        "max_length": 128, "quantization": "nf4",
    }.items()  # fmt: skip

    more = {"val_set_size": 0.1, "warmup_steps": 10, "max_steps": 3, "attn_implementation": "x"}
    more |= {
        "fsdp_config": {"a": 1},
        "chat_template": "tunery",
        "special_tokens": {"eos_token": "x"},
    }
    config.write_text(yaml.safe_dump(CONFIG | more))
    said, code = run("create", "--axolotl", config, "--no-follow")
    assert code == 0, said
    for name in ("attn_implementation: x (the engine has one way", "fsdp_config", "special_tokens"):
        assert f"Left out: {name}" in said
    job = server.client.fine_tuning.jobs.list().data[0]
    training = (job.model_extra or {})["tunery"]["training"]
    assert training.items() >= {"validation_split": 0.1, "warmup_steps": 10, "max_steps": 3}.items()
    config.write_text(
        yaml.safe_dump(CONFIG | {"rl": "kto", "lora_modules": 1, "chat_template": "x"})
    )
    said, code = run("create", "--axolotl", config)
    assert code == 1
    for name in (
        "rl: kto",
        "lora_modules: 1 (no such setting here; did you mean lora_",
        "chat_template: x",
    ):
        assert name in said
    config.write_text(yaml.safe_dump(CONFIG | {"datasets": [{"path": "org/set"}]}))
    assert "Name the one to train on: --training FILE" in run("create", "--axolotl", config)[0]
    assert len(server.client.fine_tuning.jobs.list().data) == 2


REFUSED = (
    ("datasets: rows.jsonl", "datasets: rows.jsonl (a list of one, with its path)"),
    ("datasets: [rows.jsonl]", "datasets: ['rows.jsonl'] (a list"),
    ("datasets: 5", "datasets: 5 (a list"),
    (
        "datasets: [{path: rows.jsonl, type: completion}]",
        "datasets: type: completion (rows.jsonl holds rows of the format alpaca)",
    ),
    (
        "datasets: [{path: rows.jsonl, type: alpaca_chat.load_qa}]",
        "type: alpaca_chat.load_qa (alpaca, chat_template, sharegpt, completion are known",
    ),
    (
        "datasets: [{path: x, split: 'train[:10%]', roles_to_train: [user], shards: 3}]",
        "datasets: split: train[:10%] (a file is read whole",
    ),
    (
        "test_datasets: [{path: rows.jsonl, ds_type: json, roles_to_train: [user]}]",
        "test_datasets: roles_to_train: ['user'] (a file is read whole",
    ),
    ("dpo_beta: 0.3", "rl_beta: 0.3 (it is for rl: dpo)"),
    ("special_tokens: [pad_token]", "special_tokens: ['pad_token'] (no such setting here)"),
    ("wandb_entity: us\nrl: kto", "wandb_entity: us (no project)"),
    ("learning_rate: .nan", "a value that no setting has"),
    ("seed: 2026-11-25", "a value that no setting has"),
    ("a: &a [*a]", "a value that no setting has"),
)


def test_a_config_that_is_none_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    for config, says in REFUSED:
        path.write_text(config)
        said, code = run("create", "--axolotl", path)
        assert (code, says in said) == (1, True), (config, said)


def test_a_job_of_openais_is_replayed_on_an_open_base(server: Served, tmp_path: Path) -> None:
    exported = {
        "object": "fine_tuning.job", "id": "ftjob-abc", "model": "gpt-4o-mini-2024-07-18",
        "created_at": 1721764800, "finished_at": None, "fine_tuned_model": "ft:gpt-4o-mini:x",
        "organization_id": "org-1", "result_files": ["file-1"], "status": "succeeded",
        "validation_file": None, "training_file": "file-2", "seed": 7, "error": {},
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {
            "n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}}, "dpo": None},
        "user_provided_suffix": "mine", "metadata": {"a": "b"}, "integrations": [],
        "trained_tokens": 5000, "estimated_finish": 0,
    }  # fmt: skip
    path = tmp_path / "job.json"
    path.write_text(json.dumps(exported))
    ask = ("import", "openai-job", path, "--model", BASE, "--training", tmp_path / "rows.jsonl")
    said, code = run(*ask, "--no-follow")
    assert code == 0, said
    assert f"model: gpt-4o-mini-2024-07-18, in place of which is {BASE}" in said
    (job,) = server.client.fine_tuning.jobs.list().data
    assert job.hyperparameters.to_dict() == exported["hyperparameters"]
    assert (job.seed, job.metadata) == (7, {"a": "b"})
    assert (job.model_extra or {})["user_provided_suffix"] == "mine"

    nulls = {"hyperparameters": None, "method": {"type": "supervised", "supervised": {
        "hyperparameters": {"n_epochs": 3, "batch_size": None}}}}  # fmt: skip
    path.write_text(json.dumps(exported | nulls))
    said, code = run(*ask, "--no-follow")
    assert code == 0, said
    assert server.client.fine_tuning.jobs.list().data[0].hyperparameters.n_epochs == 3

    path.write_text(json.dumps(exported | {"method": {"type": "reinforcement"}}))
    said, code = run(*ask)
    assert code == 1
    assert "method: reinforcement (supervised and dpo are trained here)" in said
    for no_job in ("[]", json.dumps(exported | {"method": "dpo"})):
        path.write_text(no_job)
        assert "no fine-tuning job" in run(*ask)[0]
    path.write_text("{")
    assert "is no JSON" in run(*ask)[0]
