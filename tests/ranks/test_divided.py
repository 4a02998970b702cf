"""A base that is divided among two processes is trained as a whole one is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from tests.engine.conftest import ON_CPU, PLAN, TINY, MakeOrder, Run, on_base
from tests.engine.test_families import FAMILIES, SIZES
from tests.engine.test_preference import pairs
from tests.engine.test_ranks import assert_same
from tests.ranks.forked import run_by
from tunery.spec import Lora, Preference
from worker.engine.model.base import auto_class
from worker.protocol import Train

MakeJob = Callable[..., Train]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not ON_CPU, reason="CUDA does not survive a fork"),
]

# More than there are rooms, and not a multiple of them.
LAYERS = 5
OTHERS = {
    "gemma": FAMILIES["gemma"],
    "phi": FAMILIES["phi"],
    "phi3": FAMILIES["phi3"],
    "gpt2": FAMILIES["gpt2"],
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False, "mlp_bias": True},
}


def planned(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    usual = {"micro_tokens": 100, "gpus": 2, "dequantized": False}
    plan = PLAN.model_copy(update=usual | changes)
    patch.setattr("worker.engine.train.plan_of", lambda *_: plan)


def made(family: str, parent: Path) -> Path:
    """A random model of that family, with biases where it has any."""
    folder = Path(shutil.copytree(TINY, parent / family))
    sizes = SIZES | {"num_hidden_layers": LAYERS, "max_position_embeddings": 512}
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **sizes | OTHERS[family])
    model = auto_class(family).from_config(config)  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    return made("llama", tmp_path)


@pytest.fixture(params=["supervised", "dpo"])
def make_job(
    request: pytest.FixtureRequest, make_order: MakeOrder, rows: list[dict[str, Any]], deep: Path
) -> MakeJob:
    def make(**more: Any) -> Train:
        if request.param == "supervised":
            return on_base(make_order(rows, valid=rows[:3], samples=1, **more), deep)
        how = {"objective": Preference(), "lora": Lora(r=4, alpha=8, dropout=0.3)}
        return on_base(make_order(pairs(8), valid=pairs(3), **how, **more), deep)

    return make


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(
    "recomputes", [{}, {"checkpointing": True}, {"checkpointing": True, "recomputed_layers": 2}]
)
def test_two_processes_that_have_half_of_the_base_take_the_steps_of_one(
    run: Run,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    recomputes: dict[str, Any],
) -> None:
    planned(monkeypatch, quantization=quantization, **recomputes)
    alone = run(make_job())
    planned(monkeypatch, quantization=quantization, divided=True, **recomputes)
    assert_same(run_by(2)(make_job()), alone)


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_every_family_that_is_divided(
    run: Run,
    make_order: MakeOrder,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """With adapters on a few layers alone: the others' weights are what autograd keeps."""
    folder = made(family, tmp_path)
    which = r".*[23]\.(attn\.c_attn|self_attn\.(q_proj|qkv_proj))"
    lora = Lora(r=4, alpha=8, target_modules=which)
    planned(monkeypatch, quantization="none")
    alone = run(on_base(make_order(rows, valid=rows[:3], samples=1, lora=lora), folder))
    planned(monkeypatch, quantization="none", divided=True)
    divided = run_by(2)(on_base(make_order(rows, valid=rows[:3], samples=1, lora=lora), folder))
    assert_same(divided, alone)
