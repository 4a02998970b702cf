"""Settings by the names that other programs have for them."""

from typing import Any

import pytest
from openai import BadRequestError
from pydantic import ValidationError

from api.jobs.training import LoraSettings, TrainingSettings
from tests.conftest import Served
from tests.factories import create_job, upload
from tunery import other_names


def test_each_other_name_means_one_of_ours_and_none_is_said_twice() -> None:
    for names, settings in (
        (other_names.TRAINING, TrainingSettings),
        (other_names.LORA, LoraSettings),
    ):
        assert set(names.values()) <= settings.model_fields.keys()
        assert not names.keys() & settings.model_fields.keys()
        assert not names.keys() & {*other_names.NO_EFFECT, *other_names.ONLY}
        assert not settings.model_fields.keys() & {*other_names.NO_EFFECT, *other_names.ONLY}


def test_a_job_takes_the_settings_of_trl_and_peft_and_says_which_change_nothing(
    server: Served,
) -> None:
    training = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_8bit",
        "packing": True,
        "assistant_only_loss": True,
        "bf16": True,
        "gradient_checkpointing": True,
        "attn_implementation": "flash_attention_2",
    }
    lora = {"lora_alpha": 8, "r": 4, "use_rslora": True, "bias": "none"}
    job = create_job(server.client, extra_body={"training": training, "lora": lora})
    extras = (job.model_extra or {})["tunery"]
    found = extras["training"]
    assert (found["n_epochs"], found["batch_size"], found["lr_scheduler"]) == (2, 4, "cosine")
    assert (found["optimizer"], found["micro_batch_size"]) == ("adamw_8bit", 2)
    assert (extras["lora"]["alpha"], extras["lora"]["r"], extras["lora"]["rslora"]) == (8, 4, True)
    said = " ".join(extras["warnings"])
    for name in ("assistant_only_loss", "bf16", "gradient_checkpointing", "attn_implementation"):
        assert f"training.{name} has no effect here: " in said
    assert "lora.bias has no effect here: an adapter trains no biases." in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_epochs": 2, "num_train_epochs": 3}, "num_epochs by two names and with two values"),
        ({"without_effect": {"num_epochs": "x"}}, "without_effect"),
    ],
)
def test_what_contradicts_itself_or_is_not_offered_is_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainingSettings.model_validate(settings)


def test_a_loss_on_all_of_a_row_is_asked_for_by_its_opposite() -> None:
    assert TrainingSettings.model_validate({"assistant_only_loss": False}).train_on_inputs is True


def test_all_faults_of_a_request_are_in_one_answer_each_with_the_nearest_name(
    server: Served,
) -> None:
    asked = {
        "training": {"num_train_epoch": 1, "warmup": 3, "samples": 99, "batch_size": 4},
        "lora": {"lora_alpa": 1, "use_dora": True},
    }
    file = upload(server.client)
    with pytest.raises(BadRequestError) as refused:
        create_job(server.client, file.id, extra_body=asked)
    message = refused.value.message
    assert (
        "training.num_train_epoch: is not known here; remove it. Did you mean num_epochs?"
        in message
    )
    assert "training.warmup: is not known here" in message
    assert "send it as method.TYPE.hyperparameters.batch_size." in message
    assert "lora.use_dora: is not known here; remove it. DoRA is not offered." in message
    assert "training.samples: Input should be less than or equal to 16." in message
    assert "lora.lora_alpa: is not known here; remove it. Did you mean alpha?" in message
