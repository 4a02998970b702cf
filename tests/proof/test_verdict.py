"""What is said of servers that answer with the trained weights, and of those that do not."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.openai_server import BASE, Fake, Weights, made_proof, openai_server
from tunery.proof.kept import Proof
from tunery.proof.server import ServerAsked, Unreachable
from tunery.proof.verdict import Finding, Verdict, judge

PROOF = made_proof()
NAME = "tuned"


def attested(fake: Fake, name: str = NAME) -> Finding:
    async def ask() -> Finding:
        async with httpx.AsyncClient(trust_env=False) as client:
            asked = ServerAsked(client, fake.url, name)
            return judge(fake.proof, await asked.hear(fake.proof))

    with openai_server(fake):
        return asyncio.run(ask())


def server(weights: Weights, proof: Proof = PROOF) -> Fake:
    return Fake(proof, models={"base": BASE, NAME: weights})


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_server_with_the_trained_weights_is_verified_in_another_precision_too(
    noise: float,
) -> None:
    found = attested(server(Weights(noise=noise)))
    assert (found.verdict, found.how, found.template) == ("verified", "echo", "same")
    assert found.places == 6 * 28
    assert (found.forks, found.forks_as_tuned) == (12, 12)


def test_llama_server_is_asked_in_its_own_way() -> None:
    fake = Fake(PROOF, "llama_server", {NAME: Weights()})
    found = attested(fake)
    assert (found.verdict, found.how, found.template) == ("verified", "n_probs", "same")
    fake.models = {NAME: BASE}
    assert attested(fake).verdict == "answers_as_base"


def test_a_server_without_echo_is_asked_for_prompt_logprobs() -> None:
    fake = server(Weights())
    fake.echoes = False
    found = attested(fake)
    assert (found.verdict, found.how, found.places) == ("verified", "prompt_logprobs", 6 * 28)


@pytest.mark.parametrize("score", [None, 10**400, "x"], ids=["none", "large", "text"])
def test_scores_that_are_none_are_not_measured(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logprobs = {"token_logprobs": [score] * 99}
    told = {"choices": [{"logprobs": logprobs}]}
    monkeypatch.setattr(Fake, "completed", lambda *_: told)
    assert attested(server(Weights())).verdict == "not_measurable"


def test_what_has_no_form_of_an_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Any = {"completion_probabilities": [{"top_logprobs": [{"id": []}]}]}
    monkeypatch.setattr(Fake, "natively", lambda *_: told)
    with pytest.raises(Unreachable, match="what is no answer"):
        attested(Fake(PROOF, "llama_server", {NAME: Weights()}))


def test_base_weights_under_an_adapters_name_are_seen() -> None:
    found = attested(server(BASE))
    assert (found.verdict, found.share, found.off_base) == ("answers_as_base", 0.0, 0.0)


def test_another_adapter_whose_name_begins_alike_is_seen() -> None:
    assert attested(server(Weights(other=made_proof(2)))).verdict == "answers_as_other"


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_a_part_of_the_adapter_that_is_left_out_is_seen(share: float) -> None:
    """Experts' adapters, or that of the head: the server is a part of the way to the model."""
    found = attested(server(Weights(share=share, noise=0.05)))
    assert found.verdict == "answers_as_other"
    assert found.share == pytest.approx(share, abs=0.03)


def test_another_chat_template_is_seen() -> None:
    fake = server(Weights())
    fake.another_template = True
    found = attested(fake)
    assert (found.verdict, found.template) == ("answers_as_other", "differs")
    assert found.share == 1
    assert "another chat template" in found.reason


def test_answers_of_the_base_beside_scores_of_the_model_are_seen() -> None:
    found = attested(server(Weights(goes_on="base")))
    assert (found.verdict, found.share) == ("answers_as_base", 1)
    assert "of 12 tokens" in found.reason


@pytest.mark.parametrize(
    ("apart", "noise", "verdict"),
    [(0.02, 0.0, "verified"), (0.02, 0.03, "verified"), (0.002, 0.05, "not_measurable")],
)
def test_a_training_that_changed_little_is_verified_only_where_noise_lets_it(
    apart: float, noise: float, verdict: Verdict
) -> None:
    proof = made_proof(apart=apart)
    assert attested(server(Weights(noise=noise), proof)).verdict == verdict
    assert attested(server(Weights(share=0, noise=noise), proof)).verdict != "verified"


def test_a_server_that_tells_no_scores_proves_nothing() -> None:
    fake = server(Weights())
    fake.wrong = {"/v1/completions": 404, "/completion": 404}
    found = attested(fake)
    assert (found.verdict, found.places) == ("not_measurable", 0)
    assert "tells no log-probabilities" in found.reason


@pytest.mark.parametrize("wrong", ["redirects", "garbage", 500])
def test_a_server_out_of_order_is_no_verdict(wrong: int | str) -> None:
    fake = server(Weights())
    fake.wrong = {"/v1/completions": wrong}
    with pytest.raises(Unreachable):
        attested(fake)


def test_a_model_that_the_server_does_not_know_is_named() -> None:
    with pytest.raises(Unreachable, match="knows no model 'gone'"):
        attested(server(Weights()), "gone")
