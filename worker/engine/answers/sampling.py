"""Which token comes next. Chance is each answer's own, so that none depends on those beside it."""

import secrets
from collections import Counter

import torch
from torch import Tensor

from tunery.completions import Sampling, TokenChance, TokenSaid
from tunery.data.spoken import token_text
from tunery.data.template import ChatTokenizer
from worker.engine.seeds import seed_of


class Sampler:
    """Of one answer, the `choice`-th of those that are asked for."""

    def __init__(self, sampling: Sampling, choice: int) -> None:
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.sampling = sampling
        self.numbers = torch.Generator().manual_seed(seed_of("answer", seed, choice))
        self.said: Counter[int] = Counter()

    def next(self, logits: Tensor) -> Tensor:
        """The token, on the device, of logits (vocabulary,) fp32."""
        scores = self.scores(logits)
        if self.sampling.temperature == 0:
            return scores.argmax()
        number = float(torch.rand((), generator=self.numbers, dtype=torch.float64))
        return drawn(scores, self.sampling.temperature, self.sampling.top_p, number)

    def scores(self, logits: Tensor) -> Tensor:
        """With what is added for tokens, and what those that were said lose."""
        asked, changes = self.sampling, dict[int, float](self.sampling.logit_bias)
        if asked.frequency_penalty or asked.presence_penalty:
            for token, times in self.said.items():
                loss = asked.frequency_penalty * times + asked.presence_penalty
                changes[token] = changes.get(token, 0.0) - loss
        if not changes:
            return logits
        places = torch.tensor(list(changes), device=logits.device)
        values = torch.tensor(list(changes.values()), device=logits.device)
        return logits.index_add(0, places, values)


def drawn(scores: Tensor, temperature: float, top_p: float, number: float) -> Tensor:
    """The token at `number`, from 0 to 1, of all the probability that may be chosen from."""
    # Below the likeliest: none is too large to be divided by the smallest temperature.
    chances = ((scores.double() - scores.max()) / temperature).softmax(0)
    tokens = None
    if top_p < 1:
        chances, tokens = chances.sort(descending=True, stable=True)
        before = chances.cumsum(0) - chances
        chances = torch.where(before < top_p, chances, 0)
        chances[0] = torch.where(chances[0] > 0, chances[0], 1)  # of a top_p of 0
    sums = chances.cumsum(0)
    at = torch.searchsorted(sums, sums[-1:] * number, right=True)[0].clamp(max=len(sums) - 1)
    return at if tokens is None else tokens[at]


def told(tokenizer: ChatTokenizer, logits: Tensor, tokens: list[int], top: int) -> list[TokenSaid]:
    """Of each token in the row of logits (tokens, vocabulary) that it came from: its
    log-probability, and the `top` likeliest.
    """
    logs = logits.log_softmax(-1)
    own = logs.gather(1, torch.tensor(tokens, device=logs.device)[:, None])[:, 0].tolist()
    values, ids = (each.tolist() for each in logs.topk(min(top, logs.shape[1]), dim=-1))
    found = []
    for row, token in enumerate(tokens):
        pairs = zip(ids[row], values[row], strict=True)
        likeliest = [chance_of(tokenizer, other, value) for other, value in pairs]
        said = with_chance(tokenizer, token, own[row])
        found.append(said.model_copy(update={"top": likeliest}))
    return found


def with_chance(tokenizer: ChatTokenizer, token: int, value: float | None) -> TokenSaid:
    return TokenSaid(id=token, **chance_of(tokenizer, token, value).model_dump())


def chance_of(tokenizer: ChatTokenizer, token: int, value: float | None) -> TokenChance:
    text, in_bytes = token_text(tokenizer, token)
    return TokenChance(text=text, bytes=in_bytes, logprob=value)
