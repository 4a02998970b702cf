"""How long a training takes, by the model."""

import pytest

from tests.plan.test_memory import LLAMA_8B, plan
from tunery.plan.duration import flops_per_token, peak_flops, training_seconds

PARTLY = plan(11)


def test_the_published_speed_of_an_h100_is_within_the_range() -> None:
    """NeMo AutoModel's page: LoRA on Llama 3 8B, bf16, 4,096 tokens a row: 12,473 tokens/s."""
    found = training_seconds(
        LLAMA_8B, plan(80), device="NVIDIA H100 80GB HBM3", tokens=12_473_000, row_tokens=4096
    )
    assert found
    fastest, slowest = found
    assert fastest < 1000 < slowest


def test_a_device_of_unknown_speed_is_given_no_time() -> None:
    assert training_seconds(LLAMA_8B, plan(80), device="cpu", tokens=1, row_tokens=1) is None


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 312e12 * 3 / 7),
    ],
)
def test_a_devices_speed_is_that_of_its_whole_name(device: str, peak: float | None) -> None:
    assert peak_flops(device) == peak


def test_recomputed_layers_cost_a_second_forward() -> None:
    once = flops_per_token(LLAMA_8B, 512)
    twice = flops_per_token(LLAMA_8B, 512, recomputed=1)
    assert twice / once == pytest.approx(1.5, abs=0.04)  # the head is not among them
    kept, half, all_of_them = (
        training_seconds(LLAMA_8B, each, device="NVIDIA H100", tokens=1, row_tokens=512)
        for each in (
            plan(80),
            PARTLY.model_copy(update={"recomputed_layers": 16}),
            PARTLY.model_copy(update={"recomputed_layers": None}),
        )
    )
    assert kept and half and all_of_them  # noqa: PT018
    assert half[0] == pytest.approx((kept[0] + all_of_them[0]) / 2)


def test_the_gradient_of_all_weights_costs_another_pass() -> None:
    once = flops_per_token(LLAMA_8B, 512)
    full = flops_per_token(LLAMA_8B, 512, full=True)
    assert full / once == pytest.approx(1.5, abs=0.05)
