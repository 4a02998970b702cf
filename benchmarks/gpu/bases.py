"""What is trained on: random weights in the shapes of real models, made on the device, and seeded
rows of random tokens.
"""

import gc
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.wide_base import DEMO
from tunery.base_model import shape_of
from tunery.plan.memory import Compute, Needs, Plan, Precision
from tunery.plan.shape import Shape
from tunery.spec import DataFile, TrainingSpec
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device, free_cached
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.quantized import compute_densely, config_of, dequantize
from worker.engine.training.slot import Slot, adapted, new_slot

Rows = Literal["short", "long"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Dimensions:
    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    vocab: int = 128_256
    context: int = 131_072

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocab,
            max_position_embeddings=self.context,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            tie_word_embeddings=self.tied,
            bos_token_id=0,  # the demo tokenizer's
            eos_token_id=1,
            pad_token_id=4,
        )

    @property
    def shape(self) -> Shape:
        return shape_of(self.config.to_dict(), {})


LLAMA_1B = Dimensions("1B", 2048, 8192, 16, 32, 8, tied=True)  # Llama 3.2
LLAMA_8B = Dimensions("8B", 4096, 14_336, 32, 32, 8, tied=False)  # Llama 3.1
TINY_1B = Dimensions("tiny, tied", 64, 128, 2, 4, 2, tied=True, vocab=4096, context=1024)
TINY_8B = Dimensions("tiny", 64, 192, 3, 4, 2, tied=False, vocab=4096, context=1024)


def compute() -> Compute:
    return "bf16" if compute_dtype() is torch.bfloat16 else "fp32"


@dataclass(frozen=True)
class Kind:
    """A base as a plan has it: `quantization` and `dequantized` as in `Plan`."""

    dimensions: Dimensions
    quantization: Precision = "none"
    dequantized: bool = False

    def __str__(self) -> str:
        words = {"none": compute(), "nf4": "NF4, kept dequantized" if self.dequantized else "NF4"}
        return f"{self.dimensions.name} {words[self.quantization]}"

    def plan(
        self,
        spec: TrainingSpec,
        *,
        micro_tokens: int,
        checkpointing: bool,
        recomputed_layers: int | None = None,
    ) -> Plan:
        """With the peak that the planner's model expects."""
        needs = Needs.of(self.dimensions.shape, spec, compute())
        peak = needs.peak(
            self.quantization,
            micro_tokens=micro_tokens,
            checkpointing=checkpointing,
            recomputed_layers=recomputed_layers,
        )
        return Plan(
            quantization=self.quantization,
            dequantized=self.dequantized,
            checkpointing=checkpointing,
            micro_tokens=micro_tokens,
            peak_bytes=peak + needs.dequantized_bytes * self.dequantized,
            recomputed_layers=recomputed_layers,
        )


def spec_of(batch_size: int) -> TrainingSpec:
    """LoRA of r 16 on all linear layers, no dropout."""
    return TrainingSpec(
        base_model="bench",
        base_revision="1",
        training_file=DataFile(id="file", sha256="0" * 64, rows=batch_size),
        seed=1,
        n_epochs=1,
        batch_size=batch_size,
        learning_rate=2e-4,
        warmup_ratio=0,
        max_length=8192,
    )


def random_state(dimensions: Dimensions) -> dict[str, torch.Tensor]:
    """All weights, on the device in the compute dtype: N(0, 0.02), norms 1."""
    torch.manual_seed(1)
    empty = partial(torch.empty, device=device(), dtype=compute_dtype())
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(dimensions.config)
    return {
        name: empty(weight.shape).fill_(1)
        if weight.ndim == 1
        else empty(weight.shape).normal_(0, 0.02)
        for name, weight in skeleton.named_parameters()
    }


def unread(
    dimensions: Dimensions, quantization_config: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Loaded as any other, from weights that are in memory already."""
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(
        None,
        config=dimensions.config,
        state_dict=random_state(dimensions),
        quantization_config=quantization_config,
        dtype=compute_dtype(),
        device_map={"": device()},
        attn_implementation=DOCUMENTS,
    )
    return model


def random_base(kind: Kind) -> PreTrainedModel:
    """As `worker.engine.model.base.load` leaves one, but from no file."""
    let_go()
    quantized = kind.quantization != "none"
    config = config_of(kind.quantization, double_quant=True) if quantized else None
    model = unread(kind.dimensions, config)
    model.requires_grad_(False)
    compute_densely(model)
    if kind.dequantized:
        dequantize(model)
    return model


def let_go() -> None:
    """Of the memory of what nobody refers to any more."""
    gc.collect()
    free_cached()


@contextmanager
def slot_on(model: PreTrainedModel, spec: TrainingSpec, plan: Plan) -> Iterator[Slot]:
    """A fresh job on the base, its peak of memory counted from here."""
    let_go()
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with adapted(model, spec) as adapter:
        yield new_slot(adapter, spec, plan)


def base_folder(dimensions: Dimensions, parent: Path) -> Path:
    """The same weights in transformers' layout, with the demo's tokenizer; made when first asked
    for.
    """
    folder = parent / dimensions.name.replace(", ", "-")
    if not folder.exists():
        partial_folder = folder.with_suffix(".partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        model = unread(dimensions)
        model.save_pretrained(partial_folder, max_shard_size="4GB")
        for name in TOKENIZER_FILES:
            shutil.copyfile(DEMO / name, partial_folder / name)
        partial_folder.rename(folder)
        del model
        let_go()
    return folder


def random_rows(kind: Rows, tokens: int, *, seed: int, vocab: int, long: int) -> list[TokenRow]:
    """So many tokens in all; each row's are trained but its first. Short rows are log-normal, of a
    median of 60 tokens and at most `long`; the others are `long`.
    """
    lengths, left = random.Random(seed), tokens
    numbers = torch.Generator().manual_seed(seed)
    rows: list[TokenRow] = []
    while left > 0:
        size = min(left, long)
        if kind == "short":
            size = min(size, max(8, round(60 * lengths.lognormvariate(0, 0.8))))
        if left - size == 1:  # one token alone has nothing to predict
            size += 1
        ids = torch.randint(5, vocab, (size,), generator=numbers, dtype=torch.int32)
        trained = torch.ones(size, dtype=torch.bool)
        trained[0] = False
        rows.append(TokenRow(len(rows) + 1, ids, trained))
        left -= size
    return rows
