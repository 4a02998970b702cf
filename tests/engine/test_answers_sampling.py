"""Which token comes next, and how likely the model found it."""

import math

import pytest
import torch

from tests.engine.conftest import TINY
from tunery.completions import Sampling
from tunery.data.template import ChatTokenizer
from worker.engine.answers.sampling import Sampler, drawn, told

# Chances of a half, 0.3 and 0.2.
LOGITS = torch.tensor([0.5, 0.3, 0.2]).log()


@pytest.mark.parametrize(
    ("top_p", "number", "token"),
    [(1.0, 0.49, 0), (1.0, 0.51, 1), (1.0, 0.81, 2), (0.7, 0.99, 1), (0.4, 0.99, 0), (0, 0.99, 0)],
)
def test_a_token_is_drawn_by_its_chance_among_the_likeliest(
    top_p: float, number: float, token: int
) -> None:
    assert int(drawn(LOGITS, 1.0, top_p, number)) == token
    shuffled = LOGITS[[2, 0, 1]]
    if top_p < 1:
        assert int(drawn(shuffled, 1.0, top_p, number)) == [1, 2, 0][token]


def test_a_temperature_sharpens_or_levels_chances() -> None:
    assert int(drawn(LOGITS, 0.01, 1.0, 0.999)) == 0
    assert int(drawn(LOGITS, 2.0, 1.0, 0.45)) == 1
    assert int(drawn(LOGITS, 1e-9, 1.0, 0.999)) == 0, "near 0 it is as at 0"
    assert int(drawn(LOGITS, 1e-310, 1.0, 0.999)) == 0, "however near"


def test_tokens_that_were_said_lose_and_biased_ones_gain() -> None:
    often = Sampler(Sampling(temperature=0, frequency_penalty=0.3), 0)
    once = Sampler(Sampling(temperature=0, presence_penalty=0.3), 0)
    for sampler in (often, once):
        assert int(sampler.next(LOGITS)) == 0
        sampler.said[0] += 1
    # 0.51 apart: once is not enough.
    assert (int(often.next(LOGITS)), int(once.next(LOGITS))) == (0, 0)
    for sampler in (often, once):
        sampler.said[0] += 1
    assert (int(often.next(LOGITS)), int(once.next(LOGITS))) == (1, 0)
    biased = Sampler(Sampling(temperature=0, logit_bias={0: -100, 2: 1.0}), 0)
    assert int(biased.next(LOGITS)) == 2


def test_log_probabilities_are_those_before_temperature_and_bias() -> None:
    [said] = told(ChatTokenizer(TINY), LOGITS[None] + 7, [2], 2)
    assert said.id == 2
    assert said.logprob == pytest.approx(math.log(0.2))
    assert [each.logprob for each in said.top] == pytest.approx([math.log(0.5), math.log(0.3)])
