"""A server is asked for a proof's rows, by whatever it offers of

- `/v1/completions` with the row's tokens as its prompt, `echo` and `logprobs`, as OpenAI's;
- the same with vLLM's `prompt_logprobs`;
- llama-server's `/completion` with `n_probs`, one place at a time, for the places that tell most;

and how it renders messages, by llama-server's `/apply-template`, vLLM's `/tokenize`, or the tokens
of the prompt that `/v1/chat/completions` counts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tunery.proof.kept import Fork, Proof, ProvedRow, Rendering
from tunery.proof.verdict import FLOOR, Heard

SECONDS = 60.0
MOST_BYTES = 16 << 20
# Of llama-server: places that are asked for, and the likeliest tokens that are told at each.
PLACES, PROBABILITIES = 48, 500
LIKELY = -4.0
FORKS, RENDERINGS = 12, 3
# Above it nothing is a log-probability.
LARGEST = 1e9
# A server that knows a route's name but not this use of it.
NO_SUCH = frozenset({400, 404, 405, 415, 422, 501})


LARGEST = 1e9
# What comes of JSON that has another form than that of an answer.
GARBAGE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


class Unreachable(Exception):
    """The server cannot be asked; the message is a sentence for people."""


@dataclass(frozen=True)
class ServerAsked:
    """A server at `root`, the address without its /v1, and the `model`'s name there. `client` sends
    what is needed to be let in, and follows no redirect.
    """

    client: httpx.AsyncClient
    root: str
    model: str

    async def hear(self, proof: Proof) -> Heard:
        """Raises `Unreachable`."""
        try:
            return await self.hear_all(proof)
        except GARBAGE as error:
            raise Unreachable(f"{self.root} answered with what is no answer.") from error

    async def hear_all(self, proof: Proof) -> Heard:
        heard = Heard()
        await self.hear_scores(proof, heard)
        forks = [(row, fork) for row in proof.rows for fork in row.forks]
        for row, fork in sorted(forks, key=lambda each: -each[1].margin)[:FORKS]:
            said = await self.next_token(row, fork, native=heard.how == "n_probs")
            if said is not None:
                heard.chosen.append((fork, said))
        await self.hear_renderings(proof, heard)
        return heard

    async def hear_scores(self, proof: Proof, heard: Heard) -> None:
        for how, ask in (("echo", self.by_echo), ("prompt_logprobs", self.by_prompt_logprobs)):
            for number, row in enumerate(proof.rows):
                scores = await ask(row.ids)
                if scores is None or not scores.keys() >= set(row.trained):
                    break
                heard.how = how
                # A server may be faithful where it copies the prompt: the answer's tokens count.
                heard.scores |= {
                    (number, place): scores[place] for place in row.trained if place in scores
                }
            if heard.scores:
                return
        if await self.by_native(proof, heard):
            heard.how = "n_probs"
            return
        heard.silent = (
            "the server tells no log-probabilities of tokens that it is given: neither "
            "/v1/completions with echo and logprobs, nor prompt_logprobs, nor /completion with "
            "n_probs"
        )

    async def by_echo(self, ids: list[int]) -> dict[int, float] | None:
        asked = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        answer = await self.post("/v1/completions", {"model": self.model, "prompt": ids, **asked})
        scores = within(answer, "choices", 0, "logprobs", "token_logprobs")
        # The one behind the prompt was said; a server that does not know `echo` tells only that.
        if not isinstance(scores, list) or len(scores) < len(ids):
            return None
        return numbers(scores[: len(ids)])

    async def by_prompt_logprobs(self, ids: list[int]) -> dict[int, float] | None:
        asked = {"prompt_logprobs": 1, "max_tokens": 1, "temperature": 0}
        answer = await self.post("/v1/completions", {"model": self.model, "prompt": ids, **asked})
        each = within(answer, "choices", 0, "prompt_logprobs")
        if not isinstance(each, list) or len(each) != len(ids):
            return None
        found = [within(told, str(id_), "logprob") for told, id_ in zip(each, ids, strict=True)]
        return numbers(found)

    async def by_native(self, proof: Proof, heard: Heard) -> bool:
        for number, place in telling_places(proof):
            row = proof.rows[number]
            answer = await self.native(row.ids[:place], PROBABILITIES)
            told = within(answer, "completion_probabilities", 0, "top_logprobs")
            if not isinstance(told, list) or not told:
                return False
            scores = numbers([within(one, "logprob") for one in told])
            own = (at for at, one in enumerate(told) if within(one, "id") == row.ids[place])
            score = scores.get(next(own, -1), min(scores.values(), default=None))
            if score is not None:
                heard.scores[number, place] = score
        return bool(heard.scores)

    async def native(self, ids: list[int], probabilities: int) -> object:
        """One token of llama-server's, with the likeliest at its place."""
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": probabilities}
        return await self.post("/completion", {"model": self.model, "cache_prompt": True, **asked})

    async def next_token(self, row: ProvedRow, fork: Fork, *, native: bool) -> int | str | None:
        """What the server says behind a row's tokens: an id, or a text where it names no ids."""
        ids = row.ids[: fork.place]
        if native:
            id_ = within(await self.native(ids, 1), "completion_probabilities", 0, "id")
            return id_ if isinstance(id_, int) else None
        if fork.base_text.strip() == fork.tuned_text.strip():
            return None
        asked = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        answer = await self.post("/v1/completions", {"model": self.model, **asked})
        for path in (("logprobs", "tokens", 0), ("text",)):
            text = within(answer, "choices", 0, *path)
            if isinstance(text, str):
                return text
        return None

    async def hear_renderings(self, proof: Proof, heard: Heard) -> None:
        for number, row in enumerate(proof.rows):
            if row.rendering and len(heard.rendered) < RENDERINGS:
                same = await self.renders(row.rendering)
                if same is None:
                    return
                heard.rendered[number] = same

    async def renders(self, wanted: Rendering) -> bool | None:
        """Whether it makes these tokens of the messages; None: it does not say."""
        asked: dict[str, Any] = {"model": self.model, "messages": wanted.messages}
        if wanted.tools:
            asked["tools"] = wanted.tools
        text = within(await self.post("/apply-template", asked), "prompt")
        if isinstance(text, str):
            return same_text(wanted.text, text)
        tokens = within(await self.post("/tokenize", asked), "tokens")
        if isinstance(tokens, list) and tokens:
            return tokens == wanted.ids
        answer = await self.post("/v1/chat/completions", {**asked, "max_tokens": 1})
        count = within(answer, "usage", "prompt_tokens")
        return count == len(wanted.ids) if isinstance(count, int) and count else None

    async def post(self, path: str, body: Mapping[str, Any]) -> object:
        """The answer's JSON; None: the server does not offer this, or says that it does not."""
        url = f"{self.root}{path}"
        try:
            async with self.client.stream("POST", url, json=body) as response:
                if response.status_code in NO_SUCH:
                    await self.refused(response, path)
                    return None
                if response.status_code != 200:
                    raise Unreachable(f"{url} answered with status {response.status_code}.")
                return json.loads(await content(response, url))
        except httpx.TimeoutException as error:
            raise Unreachable(f"{url} did not answer in {SECONDS:.0f} s.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{url} cannot be reached ({error}).") from error
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"{url} answered with something that is no JSON.") from error

    async def refused(self, response: httpx.Response, path: str) -> None:
        """Raises `Unreachable` if it is the model that the server does not know."""
        told = (await content(response, path)).decode(errors="replace")
        if response.status_code == 404 and path.startswith("/v1/") and self.model in told:
            raise Unreachable(f"The server knows no model {self.model!r}: {told[:200]}")


async def content(response: httpx.Response, url: str) -> bytes:
    found = bytearray()
    async for some in response.aiter_bytes():
        found += some
        if len(found) > MOST_BYTES:
            raise Unreachable(f"{url} answered with more than {MOST_BYTES >> 20} MiB.")
    return bytes(found)


def within(value: object, *path: str | int) -> Any:  # noqa: ANN401 (of any JSON)
    """What stands there in JSON; None, if nothing does."""
    for part in path:
        if isinstance(part, int) and isinstance(value, list):
            value = value[part] if part < len(value) else None
        elif isinstance(part, str) and isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


def numbers(values: list[Any]) -> dict[int, float]:
    """Those that are numbers and no infinite ones, by their places."""
    return {
        place: float(value)
        for place, value in enumerate(values)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    }


def telling_places(proof: Proof) -> list[tuple[int, int]]:
    """(row's number, place) of some of the answers' tokens that either model finds likely: others
    are not told. From all that base and tuned model see differently, a little or much: where one is
    sure and the other has never heard of it, half an adapter is as good as a whole one.
    """
    found = []
    for number, row in enumerate(proof.rows):
        for place in row.trained:
            base, tuned = row.base[place], row.tuned[place]
            if base is not None and tuned is not None and max(base, tuned) > LIKELY:
                apart = abs(max(FLOOR, tuned) - max(FLOOR, base))
                found.append((apart, number, place))
    most = sorted(found, reverse=True)[: max(PLACES, len(found) * 3 // 4)]
    every = len(most) / PLACES
    few = most if every <= 1 else [most[int(index * every)] for index in range(PLACES)]
    return [(number, place) for _, number, place in few]


def same_text(wanted: str, text: str) -> bool:
    """llama-server leaves out the token that begins every text."""
    beginning = wanted.removesuffix(text)
    return wanted == text or (wanted.endswith(text) and len(beginning.split()) == 1)
