"""Settings by the field's names: what they become, and which contradict each other."""

from typing import Any

import httpx
import pytest

from api.jobs import specs
from api.jobs.requests import CreateJob
from api.models.tuned import Source
from tests.conftest import BASE, Served
from tests.factories import upload
from tunery.errors import InvalidRequest


@pytest.fixture(scope="module")
def ask(shared_server: Served) -> Any:
    http = shared_server.http()
    training, validation = (upload(shared_server.client).id for _ in range(2))

    def create(asked: dict[str, Any]) -> httpx.Response:
        if asked.pop("validated", False):
            asked["validation_file"] = validation
        body = {"model": BASE, "training_file": training, **asked}
        return http.post("/v1/fine_tuning/jobs", json=body)

    return create


def test_the_guides_names_become_the_settings_that_they_mean(ask: Any) -> None:
    training = {
        "num_epochs": 2,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "learning_rate": 2e-4,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.1,
        "optimizer": "adamw_bnb_8bit",
        "weight_decay": 0.01,
        "max_seq_length": 512,
        "train_on_inputs": True,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
        "early_stopping_patience": 3,
        "load_best_model_at_end": True,
        "samples": 2,
        "max_lost_share": 0.05,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-5,
        "loraplus_lr_ratio": 16,
    }
    shown = ask({"training": training, "validated": True}).json()
    assert shown["hyperparameters"]["n_epochs"] == 2
    assert shown["hyperparameters"]["batch_size"] == 8
    assert shown["tunery"]["training"] == {
        "finetuning_type": "lora",
        "n_epochs": 2,
        "batch_size": 8,
        "micro_batch_size": 2,
        "learning_rate": 2e-4,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.1,
        "optimizer": "adamw_8bit",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "max_length": 512,
        "overflow": "cut",
        "train_on_inputs": True,
        "train_on_reasoning": True,
        "quantization": "fp4",
        "double_quant": False,
        "early_stopping_patience": 3,
        "load_best_model_at_end": True,
        "samples": 2,
        "warmup_steps": None,
        "max_steps": None,
        "validation_split": None,
        "chat_template": None,
        "max_lost_share": 0.05,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-5,
        "min_lr_ratio": None,
        "loraplus_lr_ratio": 16.0,
        "gpus": 1,
    }
    assert shown["tunery"]["lora"] == {
        "r": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert set(shown["tunery"]["reasons"]) == {"gpus", "max_grad_norm", "overflow"}


@pytest.mark.parametrize(
    ("training", "setting", "becomes"),
    [
        ({"load_in_8bit": True}, "quantization", "int8"),
        ({"load_in_4bit": True}, "quantization", "nf4"),
        ({"load_in_4bit": False}, "quantization", "none"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "quantization", "int8"),
        ({"bnb_4bit_quant_type": "fp4"}, "quantization", "fp4"),
        ({"sample_packing": False}, "micro_batch_size", 1),
        ({"sample_packing": False, "micro_batch_size": 4}, "micro_batch_size", 4),
        ({"gradient_accumulation_steps": 8}, "batch_size", 8),
        ({"finetuning_type": "full"}, "quantization", "none"),
        ({"finetuning_type": "full"}, "weight_decay", 0.01),
        ({"learning_rate": "auto", "optimizer": "auto"}, "optimizer", "adamw_torch"),
        ({"lr_scheduler": "constant"}, "warmup_ratio", 0.0),
        ({"lr_scheduler": "cosine_with_min_lr", "cosine_min_lr_ratio": 0.2}, "min_lr_ratio", 0.2),
    ],
)
def test_a_name_alone_decides(
    ask: Any, training: dict[str, Any], setting: str, becomes: object
) -> None:
    assert ask({"training": training}).json()["tunery"]["training"][setting] == becomes


def test_full_fine_tuning_takes_a_tenth_of_the_rate_and_dpo_its_own(ask: Any) -> None:
    lora, full = (
        ask({"training": {"finetuning_type": kind}}).json()["tunery"] for kind in ("lora", "full")
    )
    assert full["learning_rate"] == pytest.approx(lora["learning_rate"] / 10)
    assert full["lora"] is None


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"training": {"load_in_4bit": True, "load_in_8bit": True}}, "training.load_in_8bit",
         "exclude each other"),
        ({"training": {"load_in_8bit": True, "quantization": "nf4"}}, "training.load_in_8bit",
         "which are one setting"),
        ({"training": {"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}},
         "training.bnb_4bit_quant_type", "Leave one out"),
        ({"training": {"quantization": "none", "bnb_4bit_use_double_quant": True}},
         "training.bnb_4bit_use_double_quant", "Leave it out"),
        ({"training": {"lora_r": 8}, "lora": {"r": 16}}, "training.lora_r", "Give one of them"),
        ({"training": {"num_epochs": 3}, "hyperparameters": {"n_epochs": 2}},
         "training.num_epochs", "hyperparameters.n_epochs is 2"),
        ({"training": {"micro_batch_size": 2, "gradient_accumulation_steps": 2},
          "hyperparameters": {"batch_size": 3}},
         "training.micro_batch_size * training.gradient_accumulation_steps", "one setting"),
        ({"training": {"gradient_accumulation_steps": 2}, "hyperparameters": {"batch_size": 3}},
         "training.micro_batch_size * training.gradient_accumulation_steps", "is 2"),
        ({"training": {"micro_batch_size": 32, "gradient_accumulation_steps": 16}},
         "training.gradient_accumulation_steps", "512 rows a step"),
        ({"training": {"learning_rate": 1e-4},
          "hyperparameters": {"learning_rate_multiplier": 2}},
         "training.learning_rate", "Give one of them"),
        ({"training": {"max_length": 64, "max_seq_length": 65}}, "training.max_seq_length",
         "one setting"),
        ({"training": {"finetuning_type": "full", "load_in_4bit": True}},
         "training.finetuning_type", "cannot be trained themselves"),
        ({"training": {"finetuning_type": "full", "lora_r": 8}}, "training.lora_r",
         "a setting of adapters"),
        ({"training": {"finetuning_type": "full", "loraplus_lr_ratio": 16}},
         "training.loraplus_lr_ratio", "a setting of adapters"),
        ({"training": {"finetuning_type": "full"}, "lora": {"rslora": True}}, "lora.rslora",
         "a setting of adapters"),
        ({"training": {"early_stopping_patience": 1}}, "training.early_stopping_patience",
         "Give a validation_file"),
        ({"training": {"load_best_model_at_end": True}}, "training.load_best_model_at_end",
         "Give a validation_file"),
        ({"training": {"samples": 1}}, "training.samples", "Give a validation_file"),
        (
            {"training": {"validation_split": 0.1}, "validated": True},
            "training.validation_split",
            "Give one of them",
        ),
        (
            {"training": {"warmup_steps": 1, "warmup_ratio": 0.1}},
            "training.warmup_steps",
            "Give one of them",
        ),
        ({"training": {"max_steps": 10_000}}, "training.max_steps", "50 are the most"),
        ({"training": {"train_on_inputs": True}, "method": {"type": "dpo"}},
         "training.train_on_inputs", "no meaning for the method dpo"),
        ({"training": {"optimizer": "adamw"}}, "training.optimizer", "'adamw_torch'"),
        ({"training": {"learning_rate": True}}, "training.learning_rate", "must be a number"),
        ({"lora": {"target_modules": []}}, "lora.target_modules", "a list of up to 64 names"),
        ({"lora": {"target_modules": ["q_proj", "lm_head"]}}, "lora.target_modules",
         "Choose from q_proj"),
        ({"training": {"lora_target_modules": "(q|v"}}, "lora.target_modules", "unclosed group"),
        ({"training": {"lora_target_parameters": ["experts.down_proj"]}},
         "lora.target_parameters", "Leave it out: it has no experts"),
        ({"lora": {"target_parameters": ["experts.down_proj"], "dropout": 0.1}},
         "lora.target_parameters", "PEFT has without dropout"),
        ({"lora": {"target_modules": r"(?:\w{0,200}){0,200}"}}, "lora.target_modules",
         "regular expression: Compiled regex exceeds size limit"),
        ({"training": {"lr_scheduler": "step"}}, "training.lr_scheduler", "'cosine'"),
        ({"training": {"neftune_noise_alpha": 5}}, "training.neftune_noise_alpha", "not known"),
        ({"training": {"neftune_noise_alpha": "auto"}}, "training.neftune_noise_alpha",
         "not known"),
        ({"lora": {"use_dora": "auto"}}, "lora.use_dora", "not known"),
        ({"training": {"lr_scheduler": "constant", "warmup_ratio": 0.1}}, "training.warmup_ratio",
         "constant_with_warmup"),
        ({"training": {"finetuning_type": "full", "bnb_4bit_use_double_quant": False}},
         "training.bnb_4bit_use_double_quant", "Leave it out"),
        ({"training": {"max_seq_length": 100_000}}, "training.max_seq_length", "the context of"),
        ({"training": {"adam_beta2": 0.9, "optimizer": "lion_8bit"}}, "training.adam_beta2",
         "a setting of AdamW"),
        ({"training": {"min_lr_ratio": 0.2, "lr_scheduler": "cosine"}}, "training.min_lr_ratio",
         "is cosine. Name that one"),
        ({"training": {"samples": 1, "max_length": 64, "max_seq_length": 65}}, "training.samples",
         "or leave it out. training.max_length is 64"),
        ({"training": {"max_length": 10**30}}, "training.max_length", "less than"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_with_the_field(
    ask: Any, asked: dict[str, Any], param: str, says: str
) -> None:
    answer = ask(asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert says in error["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"lora": {"alpha": 16}}, "lora.alpha"),
        ({"training": {"lora_r": 8}}, "training.lora_r"),
        ({"lora": {"rslora": True}}, "lora.rslora"),
        ({"training": {"bnb_4bit_use_double_quant": True}},
         "training.bnb_4bit_use_double_quant"),
    ],
)  # fmt: skip
def test_what_goes_on_from_a_model_keeps_its_shape_or_is_refused_with_the_field(
    asked: dict[str, Any], param: str
) -> None:
    wanted = CreateJob.model_validate({"model": "ft:x", "training_file": "file-x", **asked})
    source = Source("ft:x", "ftjob-x", None, "0" * 64, r=16, alpha=32, quantization="int8")
    with pytest.raises(InvalidRequest) as refusal:
        specs.refuse_another_shape(wanted, source)
    assert refusal.value.param == param


def test_reasoning_is_not_left_out_of_what_is_trained_as_a_whole(ask: Any) -> None:
    said = {"train_on_reasoning": False}
    assert ask({"training": said}).json()["tunery"]["training"]["train_on_reasoning"] is False
    refused = ask({"training": {**said, "train_on_inputs": True}}).json()["error"]
    assert refused["param"] == "training.train_on_reasoning"
