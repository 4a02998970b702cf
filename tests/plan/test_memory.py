"""What is planned for which device, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from tunery.errors import DoesNotFit
from tunery.plan.bytes_each import NCCL_BYTES
from tunery.plan.choice import choose
from tunery.plan.divided import divided
from tunery.plan.footprint import Footprint, Held
from tunery.plan.memory import ADMITTED, PROCESS_BYTES, Compute, Needs, Plan, Precision
from tunery.plan.shape import Shape
from tunery.spec import DataFile, Lora, TrainingSpec

GIB = 1 << 30
LLAMA_8B = Shape(
    architecture="llama",
    layers=32,
    hidden=4096,
    inner=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128_256,
    tied=False,
)


def plan(gib: float, **changes: Any) -> Plan:
    asked: dict[str, Any] = {
        "quantization": "auto",
        "longest": 512,
        "step_tokens": 2048,
    } | changes
    needs = Needs(LLAMA_8B, asked.pop("compute", "bf16"), Lora(r=asked.pop("r", 16)))
    needs = replace(needs, double_quant=asked.pop("double_quant", True))
    return choose(needs, memory_bytes=int(gib * GIB), **asked)


@pytest.mark.parametrize(
    ("layers", "hidden", "inner", "micro_tokens"),
    [
        (4, 128, 384, 2_048),  # pieces of 512 tokens are 7 % slower
        (8, 256, 704, 993),
        (8, 512, 1408, 512),  # 2,048 are hardly faster, and take 200 MB more
    ],
)
def test_on_a_cpu_a_wider_base_computes_fewer_tokens_at_once(
    layers: int, hidden: int, inner: int, micro_tokens: int
) -> None:
    size = {"layers": layers, "hidden": hidden, "inner": inner, "heads": 8, "kv_heads": 4}
    shape = LLAMA_8B.model_copy(update={**size, "head_dim": hidden // 8})
    needs = Needs(shape, "fp32", Lora())
    chosen = choose(
        needs, quantization="nf4", longest=300, step_tokens=10**6, memory_bytes=24 * GIB
    )
    assert chosen.micro_tokens == micro_tokens


def test_parameters_are_counted_as_published() -> None:
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert LLAMA_8B.linear_parameters == 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert Needs(LLAMA_8B, "bf16", Lora()).adapter_parameters == 41_943_040  # as PEFT reports it


@pytest.mark.parametrize(
    ("gib", "changes", "expected"),
    [
        # quantization, dequantized, checkpointing, micro_tokens
        (80, {}, ("none", False, False, 2048)),
        (80, {"quantization": "nf4"}, ("nf4", True, False, 2048)),
        (80, {"step_tokens": 10**6}, ("none", False, False, 9_621)),
        (141, {"step_tokens": 10**6}, ("none", False, False, 16_384)),  # the most
        (141, {"longest": 20_000}, ("nf4", False, False, 20_000)),  # a row is never split
        (24, {}, ("nf4", False, False, 2048)),
        (24, {"quantization": "none"}, ("none", False, False, 697)),  # as the user named it
        (11, {}, ("nf4", False, True, 2048)),  # without: fewer than 512 tokens at a time
        (141, {"compute": "fp32", "step_tokens": 10**6}, ("none", False, False, 512)),
    ],
)
def test_memory_goes_to_speed_in_order(
    gib: float, changes: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    chosen = plan(gib, **changes)
    found = (chosen.quantization, chosen.dequantized, chosen.checkpointing, chosen.micro_tokens)
    assert found == expected
    assert chosen.peak_bytes <= ADMITTED * gib * GIB


MEASURED = Footprint(
    kept=Held(token=8_000_000, pair=800),
    recomputed=Held(token=900_000, pair=200),
    one_row=False,
    logits=3_000_000,
)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("gib", [9, 10, 12, 40])
@pytest.mark.parametrize("measured", [None, MEASURED])
def test_the_largest_micro_batch_is_the_largest_that_fits(
    gib: int, measured: Footprint | None, *, checkpointing: bool
) -> None:
    needs = Needs(LLAMA_8B, "bf16", Lora(), measured=measured)
    most = needs.most_tokens("nf4", gib * GIB, checkpointing=checkpointing, longest=100)
    assert most > 0
    for tokens, fits in ((most, True), (most + 1, False)):
        peak = needs.peak("nf4", micro_tokens=tokens, checkpointing=checkpointing, longest=100)
        assert (peak <= gib * GIB) is fits


def test_what_was_measured_stands_in_for_the_formula_which_counts_other_adapters() -> None:
    formula = Needs(LLAMA_8B, "bf16", Lora())
    measured, one_row = (
        replace(formula, measured=MEASURED.model_copy(update={"one_row": only}))
        for only in (False, True)
    )
    assert measured.per_token(checkpointing=True) == 900_000
    large = Lora(r=64, dropout=0.1)
    more = replace(formula, lora=large).per_token(checkpointing=False)
    more -= formula.per_token(checkpointing=False)
    assert replace(measured, lora=large).per_token(checkpointing=False) == 8_000_000 + more
    assert (formula.loss(10), measured.loss(10)) == (10 * 12 * 128_256, 10 * 3_000_000)
    scores = [needs.scores(100, 1000, checkpointing=True) for needs in (formula, measured, one_row)]
    assert scores == [0, 200 * 100 * 1000, 200 * 100 * 100]


def refusal(gib: float, **changes: Any) -> str:
    with pytest.raises(DoesNotFit) as refused:
        plan(gib, **changes)
    return refused.value.message


def test_what_does_not_fit_is_refused_with_changes_that_fit() -> None:
    words = refusal(24, quantization="none", longest=16_384, r=128)
    assert "The device has 24.0 GiB" in words
    assert 'training.max_length 271 or less, or training.quantization "nf4", or a base' in words
    assert plan(24, quantization="none", longest=271, r=128).micro_tokens == 271
    assert plan(24, quantization="nf4", longest=16_384, r=128).checkpointing
    assert "What would fit: lora.r 16, or" in refusal(9.5, r=128)
    assert plan(9.5, r=16)
    with pytest.raises(DoesNotFit):
        plan(9.5, r=32)


def test_out_of_memory_a_plan_is_halved_down_to_the_longest_row_and_then_recomputes() -> None:
    found, smaller = [], plan(80).smaller(longest=600)
    while smaller:
        found.append((smaller.micro_tokens, smaller.checkpointing))
        smaller = smaller.smaller(longest=600)
    assert found == [(1024, False), (600, False), (600, True)]
    partly = plan(24, quantization="nf4", longest=4096).model_copy(update={"micro_tokens": 4096})
    assert partly.recomputed_layers
    everywhere = partly.smaller(longest=4096)
    assert everywhere
    assert (everywhere.recomputed(32), everywhere.smaller(longest=4096)) == (32, None)


def test_as_few_layers_are_recomputed_as_memory_demands() -> None:
    rows = {"longest": 4096, "step_tokens": 16_384, "quantization": "nf4"}
    chosen, layers = plan(24, **rows), LLAMA_8B.layers
    assert chosen.micro_tokens == 4096  # no more at once: layers that keep theirs gain more
    recomputed = chosen.recomputed_layers
    assert recomputed
    assert 1 < recomputed < layers - 1
    needs = Needs(LLAMA_8B, "bf16", Lora())
    peaks = [
        needs.peak("nf4", micro_tokens=4096, longest=4096, checkpointing=True, recomputed_layers=n)
        for n in range(1, layers + 1)
    ]
    assert peaks[recomputed - 1] == chosen.peak_bytes <= int(ADMITTED * 24 * GIB)
    assert peaks[recomputed - 2] > int(ADMITTED * 24 * GIB)
    none, in_all = (
        needs.peak("nf4", micro_tokens=4096, longest=4096, checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    each = (none - in_all) / (layers - 1)
    assert peaks[layers - 1] == peaks[layers - 2] == in_all  # the last one's are there either way
    assert none - peaks[0] == pytest.approx(each, rel=1e-6)
    assert f"activations of the first {recomputed} layers recomputed" in chosen.in_words()
    assert plan(30, **rows).recomputed(layers) < recomputed < plan(12, **rows).recomputed(layers)


def test_all_weights_keep_as_many_layers_too() -> None:
    needs = Needs(LLAMA_8B, "bf16", None)
    chosen = choose(
        needs, quantization="none", longest=8192, step_tokens=8192, memory_bytes=180 * GIB
    )
    assert chosen.checkpointing
    assert 1 < chosen.recomputed(32) < 31
    assert chosen.peak_bytes <= ADMITTED * 180 * GIB


def test_a_device_too_small_for_any_change_is_told_the_size_of_base_that_it_holds() -> None:
    words = refusal(4, longest=512)
    assert "max_length" not in words
    assert "a base of about 2" in words


def test_the_least_is_what_is_just_admitted() -> None:
    least = Needs(LLAMA_8B, "bf16", Lora()).least("auto", 512) / ADMITTED / GIB
    assert plan(least + 1e-6).micro_tokens == 512
    with pytest.raises(DoesNotFit):
        plan(least - 1e-6)


@pytest.mark.parametrize(
    ("quantization", "double_quant", "each"),
    [("nf4", True, 0.516), ("fp4", True, 0.516), ("nf4", False, 0.5625), ("int8", True, 1.002)],
)
def test_a_base_takes_the_bytes_of_its_precision(
    quantization: Precision, each: float, *, double_quant: bool
) -> None:
    needs = Needs(LLAMA_8B, "bf16", Lora(), double_quant)
    rest = 2 * 2 * LLAMA_8B.head_parameters + 2 * 4096 * 14336
    expected = each * LLAMA_8B.linear_parameters + rest
    assert needs.base(quantization) == pytest.approx(expected, rel=1e-3)


def test_several_gpus_need_room_for_nccls_buffers() -> None:
    file = DataFile(id="file", sha256="0" * 64, rows=4)
    names = {"base_model": "base", "base_revision": "1", "training_file": file}
    spec = TrainingSpec(
        **names, seed=1, n_epochs=1, batch_size=4, learning_rate=1e-4, warmup_ratio=0, max_length=8
    )
    two = spec.model_copy(update={"gpus": 2})

    def more(compute: Compute) -> int:
        one, each = (Needs.of(LLAMA_8B, asked, compute) for asked in (spec, two))
        return each.peak("none", micro_tokens=8) - one.peak("none", micro_tokens=8)

    assert more("bf16") == NCCL_BYTES
    assert divided(Needs(LLAMA_8B, "bf16", Lora()), "none", 2).nccl == NCCL_BYTES
    assert more("fp32") == 0  # processes on a CPU talk by Gloo


def test_a_plan_says_how_the_base_is_quantized() -> None:
    words = plan(80, quantization="fp4", double_quant=False).in_words()
    assert words.startswith("base in FP4 without double quantization, kept dequantized, micro-")
    assert 'training.quantization "nf4"' in refusal(9.5, quantization="int8")


def test_all_weights_take_sixteen_bytes_each_and_an_adapter_is_the_mend() -> None:
    needs = Needs(LLAMA_8B, "fp32", None)
    fixed, head = 16 * LLAMA_8B.parameters, LLAMA_8B.head_parameters  # and a sum of gradients
    assert needs.peak("none", micro_tokens=0) == PROCESS_BYTES["fp32"] + fixed + 8 * head
    halves = replace(needs, compute="bf16").peak("none", micro_tokens=0)
    cast = halves - PROCESS_BYTES["bf16"] - fixed - 10 * head
    assert cast == 2 * LLAMA_8B.linear_parameters
    with pytest.raises(DoesNotFit, match="for all weights, their gradients") as refused:
        choose(
            replace(needs, compute="bf16"),
            quantization="none",
            longest=512,
            step_tokens=2048,
            memory_bytes=80 * GIB,
        )
    assert 'training.finetuning_type "lora"' in refused.value.message
    assert refused.value.param == "training.finetuning_type"


LLAMA_70B = LLAMA_8B.model_copy(
    update={"layers": 80, "hidden": 8192, "inner": 28672, "heads": 64, "head_dim": 128}
)


def test_a_base_that_fits_no_gpu_whole_is_divided_among_those_of_the_training() -> None:
    needs, rows = Needs(LLAMA_70B, "bf16", Lora()), {"longest": 2048, "step_tokens": 8192}
    asked: dict[str, Any] = rows | {"quantization": "none", "memory_bytes": 80 * GIB}
    with pytest.raises(DoesNotFit, match=r"or training.gpus 4, on a worker with so many of them"):
        choose(needs, **asked)
    chosen = choose(needs, gpus=4, **asked)
    assert (chosen.divided, chosen.dequantized) == (True, False)
    assert "on 4 GPUs, among which the base's layers are divided" in chosen.in_words()
    layers, others = 2 * LLAMA_70B.linear_parameters, 4 * LLAMA_70B.head_parameters
    part = divided(needs, "none", 4).base("none")
    assert part == layers // 4 + 2 * layers // 80 + others
    whole = choose(needs, gpus=4, **asked | {"memory_bytes": 180 * GIB})
    assert not whole.divided, "what fits one is never divided"
    in_nf4 = choose(needs, gpus=2, **asked | {"quantization": "auto"})
    assert (in_nf4.quantization, in_nf4.divided) == ("nf4", False)
    small = asked | {"quantization": "nf4", "memory_bytes": 40 * GIB}
    assert choose(needs, gpus=2, **small).divided
    words = refusal_of(needs, gpus=2, **small | {"memory_bytes": 24 * GIB})
    assert "for its part of the base in NF4" in words
    assert "Each of the 2 GPUs must hold all of that. What would fit: " in words


@pytest.mark.parametrize(
    ("changes", "quantization", "why"),
    [
        ({"lora": None}, "none", "all of its weights are trained"),
        ({}, "int8", "a base in int8 is not divided"),
        (
            {"shape": LLAMA_70B.model_copy(update={"architecture": "mixtral"})},
            "nf4",
            "a base of type mixtral is not divided",
        ),
    ],
)
def test_what_is_not_divided_is_refused_with_the_reason(
    changes: dict[str, Any], quantization: str, why: str
) -> None:
    needs = replace(Needs(LLAMA_70B, "bf16", Lora()), **changes)
    asked = {"quantization": quantization, "longest": 2048, "step_tokens": 8192}
    words = refusal_of(needs, gpus=4, memory_bytes=30 * GIB, **asked)
    assert f"Each of the 4 GPUs must hold all of that: {why}." in words
    assert "training.gpus" not in words


def refusal_of(needs: Needs, **asked: Any) -> str:
    with pytest.raises(DoesNotFit) as refused:
        choose(needs, **asked)
    return refused.value.message
