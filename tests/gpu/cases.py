"""The trainings whose steps are measured on the simulated GPU: one family for each of the engine's
paths, in the widths of models that people have, with few layers and random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal
from unittest.mock import patch

import torch
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from benchmarks.gpu.bases import spec_of
from tests.gpu.simulated import simulated_gpu
from tunery.base_model import shape_of
from tunery.plan.footprint import Footprint
from tunery.plan.memory import PROCESS_BYTES, Needs, Plan
from tunery.plan.shape import Shape
from tunery.spec import Lora, Optimizer, TrainingSpec
from worker.engine.data.rows import TokenRow
from worker.engine.device import compute_dtype, device
from worker.engine.kernels import chosen
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.base import auto_class, without_dropout
from worker.engine.model.experts import EXPERTS
from worker.engine.model.head import Head
from worker.engine.model.mixers import unpack
from worker.engine.model.quantized import EightBits, compute_densely, config_of, with_experts
from worker.engine.model.uncompiled import Linear8bitLt
from worker.engine.model.way import PACKED, Verdict
from worker.engine.proof.footprint import footprint
from worker.engine.training.objectives.masked import MaskedToken
from worker.engine.training.objectives.objective import Objective
from worker.engine.training.objectives.preference import PreferredAnswer
from worker.engine.training.objectives.supervised import NextToken
from worker.engine.training.slot import adapted, new_slot, whole
from worker.engine.training.step import take_step

# FP4 is NF4 with other levels. Weights that are all trained are never quantized.
Method = Literal["lora", "qlora", "int8", "full"]
Task = Literal["supervised", "preference", "masked"]
METHODS: tuple[Method, ...] = ("lora", "qlora", "full")

# Tokens of the rows of a step, which is cut into two micro-steps.
LENGTHS = (700, 2, 300, 40, 500, 506) * 2
MICRO_TOKENS = sum(LENGTHS) // 2

SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 64_000,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
}
UNGROUPED = {
    name: size for name, size in SIZES.items() if name not in {"num_key_value_heads", "head_dim"}
}
BLOOM = {
    "hidden_size": 1024,
    "n_layer": 2,
    "n_head": 16,
    "vocab_size": 64_000,
    "seq_length": 2048,
}
FEW_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}


@dataclass(frozen=True)
class Family:
    """By the path that its rows take through the engine."""

    model_type: str
    settings: dict[str, Any]
    verdict: Verdict = PACKED

    @property
    def config(self) -> PretrainedConfig:
        return without_dropout(CONFIG_MAPPING[self.model_type](**self.settings))


FAMILIES = {
    "packed": Family("llama", SIZES | {"tie_word_embeddings": True}),
    "window": Family("mistral", SIZES | {"sliding_window": 256}),
    "soft caps": Family(
        "gemma2", SIZES | {"sliding_window": 256}, replace(PACKED, plain_head=False)
    ),
    "sinks": Family(
        "gpt_oss", SIZES | {"num_local_experts": 8, "sliding_window": 256, "num_experts_per_tok": 2}
    ),
    "experts": Family("qwen3_moe", SIZES | FEW_EXPERTS),
    "convolutions": Family(
        "lfm2",
        SIZES | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 2816},
        Verdict("packed", ("Lfm2ShortConv",)),
    ),
    "recurrent": Family(
        "qwen3_5_text",
        SIZES | {"layer_types": ["linear_attention", "full_attention"]},
        Verdict("packed", ("Qwen3_5GatedDeltaNet",)),
    ),
    "padded": Family("bloom", BLOOM, Verdict("padded")),
    "row by row": Family("phi3", SIZES, Verdict("row by row")),
    "transposed": Family("gpt2", UNGROUPED | {"n_inner": 2816}),
    # Its head transforms hidden states before their product with the embeddings.
    "encoder": Family("bert", UNGROUPED, replace(PACKED, plain_head=False)),
}
# Of more layers, of which some are recomputed; what takes memory there is what they keep.
LAYERS = 8
DEEP = {
    "deep": Family("llama", SIZES | {"num_hidden_layers": LAYERS, "vocab_size": 4096}),
    "deep, of kinds": Family(
        "lfm2",
        SIZES
        | {
            "num_hidden_layers": LAYERS,
            "vocab_size": 4096,
            "layer_types": ["conv", "conv", "full_attention", "conv"] * 2,
            "block_ff_dim": 2816,
        },
        Verdict("packed", ("Lfm2ShortConv",)),
    ),
}


@dataclass(frozen=True)
class Case:
    path: str
    method: Method = "lora"
    objective: Task = "supervised"
    checkpointing: bool = False
    recomputed_layers: int | None = None
    dropout: float = 0.0
    optimizer: Optimizer = "adamw_torch"
    fused: bool = False

    def __str__(self) -> str:
        words = [self.path, self.method, self.objective]
        if self.checkpointing:
            words.append("recomputed")
        if self.recomputed_layers:
            words[-1] = f"first {self.recomputed_layers} of {LAYERS} recomputed"
        if self.dropout:
            words.append("dropout")
        if self.optimizer != "adamw_torch":
            words.append(self.optimizer)
        if self.fused:
            words.append("fused kernels")
        return ", ".join(words)

    @property
    def family(self) -> Family:
        return (FAMILIES | DEEP)[self.path]

    @property
    def spec(self) -> TrainingSpec:
        lora = None if self.method == "full" else Lora(r=16, dropout=self.dropout)
        return spec_of(len(LENGTHS)).model_copy(update={"lora": lora, "optimizer": self.optimizer})

    @property
    def quantization(self) -> Literal["nf4", "int8", "none"]:
        if self.method == "int8":
            return "int8"
        return "nf4" if self.method == "qlora" else "none"


def tasks_of(path: str) -> tuple[Task, ...]:
    """Encoders learn masked tokens, and nothing else does: other jobs are refused."""
    return ("masked",) if path == "encoder" else ("supervised", "preference")


CASES = [
    *(
        Case(path, method, task)
        for path in FAMILIES
        for method in METHODS
        for task in tasks_of(path)
    ),
    *(Case(path, "int8", tasks_of(path)[0]) for path in FAMILIES),
    # Recomputed is a layer's forward alone, which a base in 4 bits or pairs of answers change
    # nothing of. Nor do pairs change how a base in int8 is dequantized.
    *(Case(path, "lora", tasks_of(path)[0], checkpointing=True) for path in FAMILIES),
    *(
        Case(path, method, checkpointing=True)
        for path in ("packed", "experts")
        for method in METHODS[1:]
    ),
    *(Case("packed", optimizer=name) for name in ("adamw_8bit", "lion_32bit", "adafactor")),
    *(Case("deep", method, checkpointing=True, recomputed_layers=3) for method in METHODS),
    Case("deep, of kinds", checkpointing=True, recomputed_layers=3),
    # Heads that are trained, or more than a product, have no fused kernel.
    *(Case("packed", method, fused=True) for method in ("lora", "qlora")),
    *(Case("packed", dropout=0.1, checkpointing=checkpointing) for checkpointing in (False, True)),
]


@dataclass(frozen=True)
class Measured:
    """Of one step: kernels that are launched, bytes that they move, the dtypes of products, waits
    and copies for which the host waits. `peak` and `planned` are bytes, without what a process has
    for itself.
    """

    launches: int
    bytes: int
    products: list[str]
    waits: dict[str, int]
    pageable: dict[str, int]
    peak: int
    planned: int


def rows_of(case: Case) -> list[TokenRow]:
    numbers = torch.Generator().manual_seed(1)
    rows = []
    for line, length in enumerate(LENGTHS, start=1):
        ids = torch.randint(5, 60_000, (length,), generator=numbers, dtype=torch.int32)
        trained = torch.arange(length) > 0
        row = TokenRow(line, ids, trained)
        if case.objective == "preference":
            second = length // 2
            trained = trained & (torch.arange(length) != second)
            row = replace(row, trained=trained, second=second, reference=torch.zeros(2))
        rows.append(row)
    return rows


def objective_of(case: Case) -> Objective:
    if case.objective == "preference":
        return PreferredAnswer(0.1, 2048)
    if case.objective == "masked":
        return MaskedToken(case.spec, 0.15, 3, 60_000)
    return NextToken(case.spec)


def base_of(case: Case) -> PreTrainedModel:
    """On the device, as `worker.engine.model.base.load` leaves one, but from no file."""
    config, verdict = case.family.config, case.family.verdict
    dtype = torch.float32 if case.method == "full" else compute_dtype()
    room = partial(torch.empty, device=device())
    with torch.device("meta"):
        skeleton = auto_class(config.model_type).from_config(config)  # type: ignore[no-untyped-call]
    if case.quantization == "int8":  # as its copy is read: bitsandbytes makes it on the CPU
        of_copy = config_of("int8", double_quant=False)
        config.quantization_config = of_copy.to_dict()
        EightBits(of_copy, pre_quantized=True).preprocess_model(skeleton, device_map=None)
    weights = {
        name: room(*weight.shape, dtype=dtype if weight.is_floating_point() else weight.dtype)
        for name, weight in skeleton.named_parameters()
    }
    weights |= {
        f"{name}.SCB": room(layer.out_features, dtype=torch.float32)
        for name, layer in skeleton.named_modules()
        if isinstance(layer, Linear8bitLt)
    }
    nf4 = case.quantization == "nf4"
    with with_experts():
        model: Any = type(skeleton).from_pretrained(
            None,
            config=config,
            state_dict=weights,
            quantization_config=config_of("nf4", double_quant=True) if nf4 else None,
            dtype=dtype,
            device_map={"": device()},
            attn_implementation=DOCUMENTS if verdict.way == "packed" else None,
            experts_implementation=EXPERTS,
        )
    if case.quantization != "none":
        compute_densely(model)
    unpack(model, verdict.mixers)
    made: PreTrainedModel = model.requires_grad_(requires_grad=False)
    return made


@cache
def known_of(path: str) -> tuple[Shape, Footprint]:
    family = (FAMILIES | DEEP)[path]
    config, verdict = family.config, family.verdict
    with torch.device("meta"):
        model = auto_class(config.model_type).from_config(config)  # type: ignore[no-untyped-call]
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    found = footprint(config, verdict, torch.bfloat16)
    return shape_of(config.to_dict(), shapes), found


def plan_of(case: Case) -> Plan:
    """As the planner has it on a GPU, by what is measured of the family."""
    shape, found = known_of(case.path)
    needs = Needs.of(shape, case.spec, "bf16", measured=found)
    peak = needs.peak(
        case.quantization,
        micro_tokens=MICRO_TOKENS,
        checkpointing=case.checkpointing,
        recomputed_layers=case.recomputed_layers,
        longest=max(LENGTHS),
    )
    return Plan(
        quantization=case.quantization,
        dequantized=False,
        checkpointing=case.checkpointing,
        micro_tokens=MICRO_TOKENS,
        peak_bytes=peak,
        recomputed_layers=case.recomputed_layers,
    )


def measured(case: Case) -> Measured:
    plan = plan_of(case)
    with simulated_gpu() as gpu, stepping(case, plan) as step:
        gpu.start()
        step()
        return Measured(
            launches=gpu.launches,
            bytes=gpu.bytes,
            products=sorted(gpu.products),
            waits=dict(gpu.waits),
            pageable=dict(gpu.pageable),
            peak=gpu.peak,
            planned=plan.peak_bytes - PROCESS_BYTES["bf16"],
        )


@contextmanager
def stepping(case: Case, plan: Plan) -> Iterator[Any]:
    """Gives what takes one step."""
    base, spec, objective, rows = base_of(case), case.spec, objective_of(case), rows_of(case)
    plain_head = patch.object(Head, "is_product", lambda _: case.family.verdict.plain_head)
    fused = patch.object(chosen, "fused", new=lambda _: case.fused)
    with plain_head, fused, adapted(base, spec) if spec.lora else whole(base) as model:
        slot = new_slot(model, spec, plan, case.family.verdict.way)

        def step() -> None:
            drawn = objective.drawn(rows, 0)
            take_step(slot, objective, drawn, spec.learning_rate, spec, lambda: None)
            slot.unread.clear()

        yield step
