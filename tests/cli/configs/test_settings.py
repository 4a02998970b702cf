"""What the settings of other trainers' configs become."""

from pathlib import Path
from typing import Any

import pytest

from tunery.cli.configs import axolotl, llamafactory
from tunery.cli.configs.settings import read
from tunery.cli.create import Wanted

NOWHERE = Path("nowhere")


def of_axolotl(config: dict[str, Any]) -> Wanted:
    return axolotl.wanted_of({"base_model": "org/Qwen3-4B", **config}, folder=NOWHERE)


def of_llamafactory(config: dict[str, Any]) -> Wanted:
    return llamafactory.wanted_of({"model_name_or_path": "x", **config}, folder=NOWHERE)


@pytest.mark.parametrize(
    ("config", "becomes"),
    [
        ({}, {"num_epochs": 1, "micro_batch_size": 1, "gradient_accumulation_steps": 1,
              "lr_scheduler": "cosine", "warmup_ratio": 0.03, "max_length": 512}),
        ({"cosine_min_lr_ratio": 0.2}, {"lr_scheduler": "cosine_with_min_lr", "min_lr_ratio": 0.2}),
        ({"lr_scheduler": "cosine_with_min_lr", "learning_rate": 1e-4,
          "lr_scheduler_kwargs": {"min_lr": 1e-5}}, {"min_lr_ratio": pytest.approx(0.1)}),
        ({"adam_eps": 1e-5, "adam_beta2": 0.95}, {"adam_epsilon": 1e-5, "adam_beta2": 0.95}),
        ({"optimizer": "adamw_torch_4bit"}, {"optimizer": "adamw_8bit"}),
        ({"optimizer": "paged_adamw"}, {"optimizer": "paged_adamw_32bit"}),
        ({"warmup_steps": 0.05}, {"warmup_ratio": 0.05}),
        ({"max_steps": 30}, {"max_steps": 30, "num_epochs": None}),
        ({"adapter": "lora"}, {"quantization": "none"}),
        ({"adapter": "qlora", "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}},
         {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}),
        ({"adapter": "lora", "loraplus_lr_ratio": 16}, {"loraplus_lr_ratio": 16}),
        ({"chat_template": "phi_3"}, {"chat_template": "phi3"}),
        ({"chat_template": "jinja", "chat_template_jinja": "{{ x }}"},
         {"chat_template": "{{ x }}"}),
    ],
)  # fmt: skip
def test_an_axolotl_setting_becomes_ours(config: Any, becomes: Any) -> None:
    wanted = of_axolotl(config)
    assert not wanted.refused
    assert wanted.body["training"].items() >= becomes.items()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lr_scheduler": "constant", "warmup_steps": 5}, "warmup_steps (a constant rate has no"),
        ({"chat_template": "qwen3"}, "chat_template: qwen3 (the base's own template is used)"),
        ({"unfrozen_parameters": ["^model.language_model.*", "lm_head"]}, "all of the language"),
        ({"lora_r": 8}, "lora_r: 8 (there is no adapter)"),
        ({"swanlab_api_key": "secret"}, "swanlab_api_key: … (a job's metrics"),
        ({"plugins": ["axolotl.integrations.liger.LigerPlugin"]}, "plugins: axolotl"),
        ({"flash_attention": False, "gptq": False}, "gptq: False (it is not done here)"),
        ({"tokens": {"bos_token": "<s>"}}, "tokens: {'bos_token': '<s>'} (the base's tokenizer"),
        ({"optimizer": "adamw_torch_8bit"}, "optimizer: adamw_torch_8bit is adamw_8bit (its mom"),
    ],
)
def test_an_axolotl_setting_without_effect_is_told_with_the_reason(config: Any, says: str) -> None:
    wanted = of_axolotl(config)
    assert not wanted.refused
    assert any(says in each for each in (*wanted.dropped, *wanted.notes))


@pytest.mark.parametrize(
    ("config", "becomes"),
    [
        ({}, {"lora_r": 8, "lora_alpha": 16, "lora_target_modules": "all-linear",
              "quantization": "none"}),
        ({"quantization_bit": 8}, {"load_in_8bit": True}),
        ({"max_steps": 10, "num_train_epochs": 3}, {"max_steps": 10, "num_epochs": None}),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, {"warmup_steps": 5}),
        ({"train_on_prompt": True, "early_stopping_steps": 2, "loraplus_lr_ratio": 16.0},
         {"train_on_inputs": True, "early_stopping_patience": 2, "loraplus_lr_ratio": 16}),
    ],
)  # fmt: skip
def test_a_llamafactory_setting_becomes_ours(config: Any, becomes: Any) -> None:
    wanted = of_llamafactory(config)
    assert not wanted.refused
    assert wanted.body["training"].items() >= becomes.items()


def test_a_tracker_is_told_if_its_project_is_named() -> None:
    shown = {"project": "cows", "name": "first"}
    named = {"wandb_project": "cows", "wandb_name": "first"}
    said = {"report_to": ["wandb"], "project": "cows", "run_name": "first"}
    for wanted in (of_axolotl(named), of_llamafactory(said)):
        assert wanted.body["integrations"] == [{"type": "wandb", "wandb": shown}]
    dropped = of_llamafactory({"report_to": "wandb"}).dropped
    assert "report_to: wandb (name a project to be told to Weights & Biases: project: NAME)" in (
        dropped
    )


def test_a_number_that_yaml_takes_for_a_text_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("learning_rate: 2e-4\nsuffix: e-4\n")
    assert read(tmp_path / "config.yml") == {"learning_rate": 2e-4, "suffix": "e-4"}
