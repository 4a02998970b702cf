"""A GGUF file loaded by llama.cpp: the tokens that it reads a text as, and what it guesses."""

import ctypes
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch

from tunery.exports import GgufQuantization
from tunery.spec import Frozen
from worker.engine.errors import Untrainable
from worker.engine.model.base import BaseFolder
from worker.engine.results.exports.drift import LENGTH, guesses
from worker.engine.results.exports.gguf_numbers import library
from worker.engine.results.exports.merged import Trained

# Each is cut otherwise by some tokenizer.
HOSTILE = (
    "Hello, world!  Two  spaces,\ttabs\t\t and\n\n\n lines \r\n end. I'VE it's they'll 'd 12 345"
    ' 6789 3.14 x_1=(a+b)**2;//-> {"k": [1,2]} https://a.b/c?d=e ÄÖß naïve Ελλάδα Привет שלום '
    "你好世界 こんにちは 한국어 🦙👩‍👩‍👧 ½ \u00a0 trailing  "
)
# Of how many rows and places of a row the guesses are compared, and of each its likeliest tokens.
ROWS, PLACES, LIKELIEST = 4, 8, 20
# Tokens: a row, and the one that is guessed.
CONTEXT = LENGTH + 1
# Nats. Formats lose some hundredths, of a tiny model some tenths; a model that is put together
# wrongly is several off.
FARTHEST = {"f16": 0.1}
FARTHEST_QUANTIZED = 1.0


class GgufDrift(Frozen):
    """Over `tokens` guesses in `rows` rows of a file, by llama.cpp: how often it guesses the same
    as the adapter on the base that it was trained on, and the mean divergence in nats of its
    likeliest tokens.
    """

    file: str
    rows: int
    tokens: int
    top1_agreement: float
    divergence: float

    def in_words(self) -> str:
        return (
            f"llama.cpp has loaded it; of {self.tokens} guesses in {self.rows} rows of the "
            f"{self.file} file {100 * self.top1_agreement:.1f} % are those of the adapter on the "
            f"base that it was trained on, with a mean divergence of {self.divergence:.2g} nats"
        )


@dataclass(frozen=True)
class Loaded:
    server: Any
    key: str

    def tokens(self, text: str) -> list[int]:
        """Without what a tokenizer adds at the ends."""
        asked = {"content": text, "add_special": False, "parse_special": True}
        request = Request(  # noqa: S310 (it is of this process)
            f"{self.server.listening_address}/tokenize",
            data=json.dumps(asked).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urlopen(request) as answer:  # noqa: S310
            return list(json.load(answer)["tokens"])

    def guess(self, ids: Sequence[int]) -> dict[int, float]:
        """The likeliest next tokens, and the logarithm of the probability of each.

        Raises:
            Untrainable: llama.cpp cannot compute it.

        """
        asked = {
            "prompt": list(ids),
            "max_tokens": 1,
            "logprobs": LIKELIEST,
            # The probabilities are those before it. Of an answer that is no whole character, or
            # nothing but the end, the server tells none.
            "logit_bias": [[self.tokens("a")[-1], 1e6]],
        }
        said = self.server.handle_completions(asked)
        if "choices" not in said:
            raise Untrainable("export_refused", f"llama.cpp does not answer with it: {said}")
        (choice,) = said["choices"]
        (token,) = choice["logprobs"]["content"]
        return {each["id"]: each["logprob"] for each in token["top_logprobs"]}


@contextmanager
def loaded(path: Path) -> Iterator[Loaded]:
    """On the CPU, for rows of up to `CONTEXT` tokens. Its weights stay in the file.

    Raises:
        Untrainable: llama.cpp does not load it, or cannot be loaded itself.

    """
    key = secrets.token_urlsafe()
    parameters = library().CommonParams()
    parameters.model.path = str(path)
    parameters.api_keys = [key]
    parameters.n_ctx = CONTEXT
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.endpoint_metrics = True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    try:
        server = library().Server(parameters)
    except RuntimeError as error:
        raise Untrainable(
            "export_refused",
            f"llama.cpp does not load what was written: {error}. Export it as merged.",
        ) from error
    only_errors()
    # Its loop answers this. A server that ends before its loop has begun waits for it for ever.
    server.handle_metrics()
    try:
        yield Loaded(server, key)
    finally:
        del server


def only_errors() -> None:
    """Its server would write six lines for each guess into the worker's log."""
    # common_log_set_verbosity_thold(int), for which there is no other way.
    ctypes.CDLL(library().xllamacpp.__file__)["_Z30common_log_set_verbosity_tholdi"](1)


def compared(
    path: Path,
    base: BaseFolder,
    trained: Trained,
    quantization: GgufQuantization,
    context: int,
    stop_if_asked: Callable[[], None],
) -> GgufDrift | None:
    """How far the file, a model of that `context` in tokens, is from what was trained; None for
    want of rows. `stop_if_asked` is called before each guess, which may take minutes on a CPU.

    Raises:
        Untrainable: llama.cpp does not load it, reads texts as other tokens, or guesses otherwise.

    """
    rows = sorted(zip(trained.rows, trained.theirs, strict=True), key=lambda row: len(row[0].ids))
    rows = rows[:ROWS]
    with loaded(path) as llama:
        require_same_tokens(llama, base)
        same, divergences = 0, list[float]()
        for row, theirs in rows:
            places, _ = guesses(row)
            within = int((places < context - 1).sum())
            chosen = torch.linspace(0, within - 1, min(PLACES, within)).long()
            for place, logits in zip(places[chosen].tolist(), theirs[chosen], strict=True):
                stop_if_asked()
                found = llama.guess(row.ids[: place + 1].tolist())
                ours = torch.tensor(list(found.values()))
                wanted = logits.log_softmax(0)[list(found)]
                divergences.append((ours.exp() * (ours - wanted)).sum().item())
                same += max(found, key=found.__getitem__) == int(logits.argmax())
    if not divergences:
        return None
    drift = GgufDrift(
        file=trained.which,
        rows=len(rows),
        tokens=len(divergences),
        top1_agreement=same / len(divergences),
        divergence=sum(divergences) / len(divergences),
    )
    if drift.divergence > FARTHEST.get(quantization, FARTHEST_QUANTIZED):
        raise Untrainable(
            "export_refused",
            f"llama.cpp does not say the same with the file as the trained model: it guesses "
            f"{drift.divergence:.2g} nats otherwise. Export it as merged.",
        )
    return drift


def require_same_tokens(llama: Loaded, base: BaseFolder) -> None:
    """Raises `Untrainable` if llama.cpp reads a text as others than the model was trained on."""
    special = "".join(base.tokenizer.special.values())
    for text in (HOSTILE, f"{special}\nuser {special}"):
        theirs = base.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
        if (ours := llama.tokens(text)) != theirs:
            raise Untrainable(
                "export_refused",
                "llama.cpp reads texts as other tokens than the model was trained on: of "
                f"{len(theirs)} tokens it makes {len(ours)}. Export it as merged, or the adapter "
                "as gguf.",
            )
