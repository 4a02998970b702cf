"""Another trainer on rows of token ids, in a process of its own.

    PYTHON peer.py < TRAINING

TRAINING is what `peers.py` writes. It needs nothing of this project, so that PYTHON can be one
with other versions. Prints one line of JSON, the last one: what the steps after the first ones
took, or that it ran out of memory.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

warnings.simplefilter("ignore")

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    training: dict[str, Any] = json.load(sys.stdin)
    if training["peer"] == "Unsloth":
        import_module("unsloth")  # before all that it patches
    import torch  # noqa: PLC0415

    try:
        measured = train(training)
    except torch.OutOfMemoryError:
        measured = {"words": "ran out of memory"}
    print(json.dumps(measured), flush=True)


def train(training: dict[str, Any]) -> dict[str, Any]:
    import torch  # noqa: PLC0415
    from datasets import Dataset  # noqa: PLC0415
    from torch.utils.data import SequentialSampler  # noqa: PLC0415
    from transformers import AutoTokenizer, TrainerCallback, TrainerState  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    on_gpu = torch.cuda.is_available()
    unsloth = training["peer"] == "Unsloth"
    model, lora = unsloths_model(training) if unsloth else trls_model(training)

    class Clock(TrainerCallback):
        """The time from the last step of the warm-up to the last of all."""

        began = seconds = 0.0

        def on_step_end(
            self,
            args: object,  # noqa: ARG002
            state: TrainerState,
            control: object,  # noqa: ARG002
            **_: object,
        ) -> None:
            if state.global_step == training["warm_up"]:
                wait()
                counted.tokens, self.began = 0, time.perf_counter()
            elif state.global_step == training["warm_up"] + training["steps"]:
                wait()
                self.seconds = time.perf_counter() - self.began

    class Counted:
        """A collator that counts tokens, padding not."""

        def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]) -> None:
            self.collator, self.tokens = collator, 0

        def __call__(self, rows: list[Any]) -> dict[str, Any]:
            batch: dict[str, Any] = self.collator(rows)
            seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
            self.tokens += int(seen.sum())
            return batch

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model,
            processing_class=AutoTokenizer.from_pretrained(training["folder"]),
            train_dataset=Dataset.from_dict({"input_ids": training["rows"]}),
            peft_config=lora,
            callbacks=[clock],
            args=SFTConfig(
                folder,
                packing=True,
                max_length=training["max_length"],
                per_device_train_batch_size=1,
                gradient_accumulation_steps=training["accumulation"],
                gradient_checkpointing=training["checkpointing"],
                max_steps=training["warm_up"] + training["steps"],
                learning_rate=2e-4,
                bf16=on_gpu,
                use_cpu=not on_gpu,
                logging_steps=1000,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        # The pack that is not full is the last one, which is not reached.
        in_order = SequentialSampler(trainer.train_dataset)  # type: ignore[arg-type]
        trainer._get_train_sampler = lambda *_: in_order  # type: ignore[method-assign]  # noqa: SLF001
        trainer.data_collator = counted = Counted(trainer.data_collator)
        trainer.train()
    return {
        "seconds": clock.seconds / training["steps"],
        "tokens": counted.tokens / training["steps"],
        "reserved": torch.cuda.max_memory_reserved() if on_gpu else None,
        "words": said(training["peer"]) + ("" if unsloth else attention_of(model.config)),
    }


def attention_of(config: Any) -> str:  # noqa: ANN401
    """TRL's. Documents of a pack are apart: flash attention computes each by itself, SDPA the whole
    pack under a mask.
    """
    name: str = config._attn_implementation  # noqa: SLF001
    why = " over the whole pack, masked: not like for like without flash_attn"
    return f", attention: {name}{why if name == 'sdpa' else ''}"


def said(peer: str) -> str:
    names = ("torch", "transformers", "trl", *(["unsloth"] if peer == "Unsloth" else []))
    return ", ".join(f"{name} {version(name)}" for name in names)


def trls_model(training: dict[str, Any]) -> tuple[Any, Any]:
    """As TRL's guides have it, with flash attention if it is installed."""
    import torch  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: PLC0415

    on_gpu = torch.cuda.is_available()
    compute = torch.bfloat16 if on_gpu else torch.float32
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    flash = on_gpu and find_spec("flash_attn") is not None
    model = AutoModelForCausalLM.from_pretrained(
        training["folder"],
        dtype=compute,
        quantization_config=nf4 if training["quantization"] == "nf4" else None,
        device_map={"": "cuda" if on_gpu else "cpu"},
        attn_implementation="flash_attention_2" if flash else "sdpa",
    )
    return model, LoraConfig(task_type="CAUSAL_LM", target_modules=LINEARS, **training["lora"])


def unsloths_model(training: dict[str, Any]) -> tuple[Any, None]:
    """As Unsloth's guides have it."""
    import torch  # noqa: PLC0415

    unsloth = import_module("unsloth")
    base, _ = unsloth.FastLanguageModel.from_pretrained(
        training["folder"],
        max_seq_length=training["max_length"],
        dtype=torch.bfloat16,
        load_in_4bit=training["quantization"] == "nf4",
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        base,
        target_modules=LINEARS,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth" if training["checkpointing"] else False,
        random_state=1,
        **training["lora"],
    )
    return model, None


if __name__ == "__main__":
    main()
