"""What is measured of a family's memory on the meta device, beside the planner's formula and what a
real model holds.
"""

from typing import Any, get_args

import pytest
import torch
from transformers import CONFIG_MAPPING

from tunery.base_model import shape_of
from tunery.plan.memory import Compute, Needs
from tunery.plan.shape import ENCODERS
from tunery.spec import Lora
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.model.attention import DOCUMENTS
from worker.engine.model.lora import fuse
from worker.engine.model.mixers import unpack
from worker.engine.model.way import PACKED, Verdict
from worker.engine.proof.family import PLAN, tiny, with_lora
from worker.engine.proof.footprint import Live, footprints
from worker.engine.training.forward import hidden_states
from worker.engine.training.slot import Slot, trained_parameters

SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "vocab_size": 32_000,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 64}


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("llama", GROUPED),
        ("qwen3", GROUPED),
        ("gemma", GROUPED),
        ("phi", GROUPED),
        ("phi3", GROUPED),
        ("gpt2", {"n_inner": 2816}),
        ("bert", {}),
    ],
)
def test_the_formula_has_what_is_measured_of_the_families_that_it_knows(
    architecture: str, sizes: dict[str, Any]
) -> None:
    config = CONFIG_MAPPING[architecture](**SIZES, **sizes)
    shape = shape_of(SIZES | sizes | {"model_type": architecture}, {})
    found = footprints(config, PACKED)
    for compute in get_args(Compute):
        needs = Needs(shape, compute, Lora())
        for checkpointing in (False, True):
            measured = found[compute].held(checkpointing=checkpointing)
            counted = needs.per_token(checkpointing=checkpointing)
            off = 0.07 if architecture in ENCODERS else 0.05
            assert counted == pytest.approx(measured.token, rel=off)
            assert measured.pair == found[compute].logits == 0


LFM = {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": 6}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("architecture", "sizes", "verdict"),
    [
        ("gemma2", {}, PACKED),
        ("qwen3_moe", EXPERTS, PACKED),
        ("lfm2", LFM, Verdict("packed", ("Lfm2ShortConv",))),
        ("bloom", {"n_layer": 6, "n_head": 4}, Verdict("padded")),
    ],
)
def test_what_is_measured_is_what_a_model_really_holds(
    architecture: str, sizes: dict[str, Any], verdict: Verdict, *, checkpointing: bool
) -> None:
    """In rows of which the longest is far from all."""
    small = SIZES | GROUPED | {"hidden_size": 128, "intermediate_size": 352, "vocab_size": 512}
    small |= {"num_attention_heads": 4, "head_dim": 32}
    config = CONFIG_MAPPING[architecture](**small | sizes)
    found = footprints(config, verdict)["fp32"]
    lengths = (400, 300, 200, 100)
    expected = sum(lengths) * found.held(checkpointing=checkpointing).token
    expected += found.scores(max(lengths), sum(lengths), checkpointing=checkpointing)

    model = tiny(config, DOCUMENTS if verdict.way == "packed" else None)
    unpack(model, verdict.mixers)
    adapted = with_lora(model)
    fuse(adapted)
    plan = PLAN.model_copy(update={"checkpointing": checkpointing})
    optimizer = torch.optim.SGD(trained_parameters(adapted).values())
    slot = Slot(adapted.train(), optimizer, plan, verdict.way)
    slot.follow(plan)
    rows = [TokenRow(1, torch.ones(n).int(), torch.ones(n).bool()) for n in lengths]
    with Live() as live:
        hidden = hidden_states(slot, Batch.of(rows, torch.device("cpu")))
        torch.autograd.backward(hidden, torch.ones_like(hidden))
    held = live.most.linear + live.most.scores
    # Soft-capped scores are there when little else is, and count as if all were at once.
    assert (0.6 if architecture == "gemma2" else 0.95) * expected < held < 1.06 * expected


def test_scores_for_which_there_is_no_kernel_exist_in_one_layer_at_a_time() -> None:
    """DeepSeek's values are narrower than its queries, for which a CPU has none."""
    sizes: dict[str, Any] = {"num_hidden_layers": 4}
    config = CONFIG_MAPPING["deepseek_v3"](**sizes)
    found = footprints(config, PACKED)
    assert found["bf16"].kept.pair == 0
    assert found["fp32"].kept.pair == found["fp32"].recomputed.pair > 0
