"""An engine that is broken on purpose: the examination notices each fault."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.masking_utils import causal_mask_function
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.families.configs import FAMILIES, config_of
from worker.engine.data.batches import Batch
from worker.engine.data.rows import TokenRow
from worker.engine.errors import Unsupported
from worker.engine.model import attention as attending
from worker.engine.model import experts, head, visible
from worker.engine.model.base import without_dropout
from worker.engine.model.documents import Documents, packed
from worker.engine.model.quantized import round_to
from worker.engine.model.stack import Stack
from worker.engine.proof.family import (
    IN_FOUR_BITS,
    Outcome,
    lively,
    one_by_one,
    proven,
    rows_of,
)
from worker.engine.proof.shrunk import shrunk

Patch = pytest.MonkeyPatch
Break = Callable[[Patch], None]

# Beside the families of the table.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "VaultGemma": ("vaultgemma", {}),
    "Granite with windows": ("granite_swa", {}),
    "MiMo V2 Flash": ("mimo_v2_flash", {}),
    "nanochat": ("nanochat", {}),
    "Gemma 4 with a soft cap": (
        "gemma4_text",
        FAMILIES["Gemma 4 (text)"][1] | {"final_logit_softcapping": 30.0},
    ),
    "Llama 4 with chunks": (
        "llama4_text",
        {
            "num_hidden_layers": 4,
            "layer_types": ["chunked_attention"] * 3 + ["full_attention"],
            "attn_temperature_tuning": False,
        },
    ),
    "Ministral 3 (scaled by position)": (
        "ministral3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 8,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            }
        },
    ),
    "DeepSeek V3 (long context)": (
        "deepseek_v3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "mscale": 2.0,
                "mscale_all_dim": 1.0,
            }
        },
    ),
}


@lru_cache
def examined(family: str) -> tuple[PreTrainedModel, Sequence[TokenRow], Outcome]:
    """A small one of it, and what it is trained to; that is right as the engine is."""
    if family in OTHERS:
        model_type, other = OTHERS[family]
        config = CONFIG_MAPPING[model_type](**other)
    else:
        config = config_of(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = lively(without_dropout(shrunk(config)))
        round_to(plain, IN_FOUR_BITS)
        rows = rows_of(plain.config)
        wanted = one_by_one(plain, rows)
        proven(plain, rows, wanted, "packed", mixers_apart=False)
        return plain, rows, wanted


def widen_the_window(patch: Patch, by: int = 1) -> None:
    """By so many tokens."""
    found, allows = visible.Visible.found, visible.Visible.allows

    def other(self: visible.Visible, length: int) -> visible.Window:
        window = found(self, length)
        return (window[0] + by, 0) if window and window[0] > 0 else window

    def allowed(self: visible.Visible, queries: Tensor, keys: Tensor) -> Tensor:
        here = allows(self, queries, keys)
        moved = allows(self, queries - by, keys)
        return here | moved if by > 0 else here & (moved | (queries[:, None] == keys[None, :]))

    patch.setattr(visible.Visible, "found", other)
    patch.setattr(visible.Visible, "allows", allowed)
    patch.setattr(visible, "_known", {})


def narrow_the_window(patch: Patch) -> None:
    widen_the_window(patch, by=-1)


def see_all_before(patch: Patch) -> None:
    begun = visible.Visible.__init__
    patch.setattr(visible.Visible, "__init__", lambda self, _: begun(self, causal_mask_function))


def forget(name: str, value: object = None) -> Break:
    """What a layer asks of its attention."""

    def broken(patch: Patch) -> None:
        scores = attending.Scores
        patch.setattr(attending, "Scores", lambda **given: scores(**(given | {name: value})))

    broken.__name__ = f"forget_{name}"
    return broken


def take_every_head_for_a_product(patch: Patch) -> None:
    patch.setattr(head.Head, "is_product", lambda _: True)


def see_one_document(patch: Patch) -> None:
    """As a family does that does not hand its layers what it is given."""

    def whole() -> Documents | None:
        documents = packed()
        return documents and Documents((documents.tokens,), documents.bounds[[0, -1]])

    patch.setattr(attending, "packed", whole)


def count_positions_over_the_pack(patch: Patch) -> None:
    of = Batch.of

    def counted(rows: Sequence[TokenRow], device: torch.device) -> Batch:
        batch = of(rows, device)
        return replace(batch, positions=torch.arange(batch.ids.shape[1], device=device)[None])

    patch.setattr(Batch, "of", counted)


def take_anothers_scales(patch: Patch) -> None:
    plain = Stack.plain_scales
    patch.setattr(Stack, "plain_scales", lambda self: plain(self).roll(1, 0))


def give_states_to_the_next_place(patch: Patch) -> None:
    product = experts.product
    patch.setattr(experts, "product", lambda *given: product(*given).roll(1, 0))


def round_to_the_dtype_of_a_weight(patch: Patch) -> None:
    """As a family's layer may, which is harmless until the weight is bytes."""
    forward: Any = LlamaMLP.forward

    def other(self: Any, x: Tensor) -> Tensor:
        found: Tensor = forward(self, x.to(self.gate_proj.weight.dtype).to(x.dtype))
        return found

    patch.setattr(LlamaMLP, "forward", other)


IN_BYTES = {take_anothers_scales, round_to_the_dtype_of_a_weight}
SOFTCAP, SINKS, USUAL_SCALE = forget("softcap"), forget("sinks"), forget("scaling", 0.25)
WINDOWS = ("Gemma 2", "gpt-oss", "Mistral 7B v0.1 (window)", "OLMo 3")
HEADS = ("Gemma 2", "Granite 3", "Command R", "Command R7B, Command A", "nanochat")


@pytest.mark.parametrize(
    ("break_it", "family"),
    [
        *((widen_the_window, family) for family in WINDOWS),
        *((narrow_the_window, family) for family in WINDOWS),
        (see_all_before, "Gemma 3 (text)"),
        (see_all_before, "Mistral 7B v0.1 (window)"),
        (see_all_before, "Qwen 2 with a window"),
        (see_all_before, "Llama 4 with chunks"),
        (SOFTCAP, "Gemma 2"),
        (SOFTCAP, "VaultGemma"),
        (SINKS, "gpt-oss"),
        (SINKS, "Granite with windows"),
        (SINKS, "MiMo V2 Flash"),
        (USUAL_SCALE, "Gemma 2"),
        (USUAL_SCALE, "Gemma 3 (text)"),
        (USUAL_SCALE, "Granite 3"),
        (USUAL_SCALE, "DeepSeek V3 (long context)"),
        *((take_every_head_for_a_product, family) for family in HEADS),
        (take_every_head_for_a_product, "Gemma 4 with a soft cap"),
        (count_positions_over_the_pack, "GPT-2"),
        (count_positions_over_the_pack, "Ministral 3 (scaled by position)"),
        (see_one_document, "Llama 2, Llama 3"),
        (take_anothers_scales, "Qwen 3 MoE"),
        (round_to_the_dtype_of_a_weight, "Llama 2, Llama 3"),
        (give_states_to_the_next_place, "Qwen 3 MoE"),
    ],
)
def test_a_way_that_is_wrong_is_not_taken(monkeypatch: Patch, break_it: Break, family: str) -> None:
    small = examined(family)
    break_it(monkeypatch)
    with pytest.raises(Unsupported, match=r"its losses are off by .*, its gradients by"):
        proven(*small, "packed", mixers_apart=False, quantized=break_it in IN_BYTES)
