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
    ("datasets: rows.jsonl", "datasets: rows.jsonl (a list, each with its path)"),
    ("datasets: [rows.jsonl]", "datasets: ['rows.jsonl'] (a list"),
    ("datasets: 5", "datasets: 5 (a list"),
    (
        "datasets: [{path: rows.jsonl, type: completion}]",
        "datasets: type: completion (rows.jsonl holds rows of the format alpaca)",
    ),
    (
        "datasets: [{path: rows.jsonl, type: alpaca_chat.load_qa}]",
        "type: alpaca_chat.load_qa (alpaca, alpaca:instruct, alpaca:chat,",
    ),
    (
        "datasets: [{path: x, split: 'train[:10%]', roles_to_train: [user], shards: 3}]",
        "datasets: shards: 3 (a file is read whole",
    ),
    (
        "test_datasets: [{path: rows.jsonl, ds_type: json, roles_to_train: [user]}]",
        "test_datasets: roles_to_train: ['user'] (the answers are trained",
    ),
    ("dpo_beta: 0.3", "rl_beta: 0.3 (it is for rl: dpo)"),
    ("special_tokens: [pad_token]", "special_tokens: ['pad_token'] (no tokens are added"),
    ("optimizer: muon\nlr_scheduler: rex", "optimizer: muon (there are adamw_torch"),
    ("optimizer: muon\nlr_scheduler: rex", "lr_scheduler: rex (there are linear"),
    ("num_epochs: 0.5\nrl: kto", "num_epochs: 0.5 (whole epochs"),
    ("plugins: [axolotl.integrations.diffusion.DiffusionPlugin]", "(no plugin runs here"),
    ("unfrozen_parameters: ['model.layers.3.*']", "all weights are trained, or an adapter"),
    ("cosine_constant_lr_ratio: 0.8", "a cosine falls to the last step"),
    ("context_paralel_size: 2", "did you mean context_parallel_size?"),
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


def test_what_the_service_refuses_is_refused_before_a_file_is_sent(
    server: Served, tmp_path: Path
) -> None:
    path = tmp_path / "config.yml"
    for wrong, says in (
        ({"learning_rate": 5}, "training.learning_rate"),
        ({"base_model": "nobody/nothing"}, "nobody/nothing"),
        ({"adapter": None, "lora_target_linear": None}, "cannot be trained themselves"),
        ({"sequence_len": 100_000}, "the context of"),
    ):
        path.write_text(yaml.safe_dump(CONFIG | wrong))
        said, code = run("create", "--axolotl", path, "--no-follow")
        assert (code, says in said) == (1, True), said
    (tmp_path / "rows.jsonl").write_bytes(ROWS + b'{"instruction": "Say b.", "output": ""}\n')
    path.write_text(yaml.safe_dump(CONFIG))
    said, code = run("create", "--axolotl", path, "--no-follow")
    assert (code, "line 11: completion: the completion is empty" in said) == (1, True), said
    assert not server.client.files.list().data


def test_a_llamafactory_config_is_a_job_and_what_is_not_ours_is_refused_by_name(
    server: Served, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.json").write_bytes(b"[" + b",".join(ROWS.splitlines()) + b"]")
    info = {name: {"file_name": "rows.json"} for name in ("one", "two")}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    config: dict[str, Any] = {
        "model_name_or_path": BASE, "trust_remote_code": True, "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "lora_rank": 4, "lora_target": "q_proj,v_proj",
        "quantization_bit": 4, "double_quantization": False, "dataset": "one, two",
        "template": "tunery", "cutoff_len": 128, "max_samples": 6, "val_size": 2,
        "preprocessing_num_workers": 16, "output_dir": "out", "report_to": "none",
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": "1e-4", "num_train_epochs": 2.0, "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1, "bf16": True, "adam_beta2": 0.95, "resume_from_checkpoint": None,
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    said, code = run("create", "--llamafactory", path, "--no-follow")
    assert code == 0, said
    assert "Left out: template: tunery (the base's own template is used)" in said
    assert "Uploaded rows.jsonl" in said
    (job,) = server.client.fine_tuning.jobs.list().data
    shown = (job.model_extra or {})["tunery"]
    assert job.seed == 42
    assert shown["lora"] == {
        "r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert shown["training"].items() >= {
        "n_epochs": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-4,
        "lr_scheduler": "cosine", "warmup_ratio": 0.1, "max_length": 128, "quantization": "nf4",
        "double_quant": False, "adam_beta2": 0.95, "validation_split": 2 / 12,
    }.items()  # fmt: skip

    wrong = {"pref_loss": "orpo", "stage": "dpo", "use_dora": True, "quantization_bit": 3}
    wrong |= {"neftune_noise_alpha": 5, "template": "llama3", "lora_rnak": 8, "dataset": "three"}
    path.write_text(yaml.safe_dump(config | wrong))
    said, code = run("create", "--llamafactory", path, "--no-follow")
    assert code == 1
    for each in (
        "pref_loss: orpo (sigmoid", "use_dora: True (DoRA: it is not offered",
        "quantization_bit: 3", "neftune_noise_alpha: 5 (NEFTune", "did you mean lora_rank?",
        "dataset: three (",
    ):  # fmt: skip
        assert each in said
    assert len(server.client.files.list().data) == 1
    said, code = run("create", "--llamafactory", path, "--axolotl", path)
    assert (code, "give one of" in said) == (2, True)


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
