"""A server that speaks as vLLM or llama-server does and can lie in each of the ways that were
reported of real ones. Its models know the rows of a proof by heart and nothing else.
"""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tunery.proof.kept import Fork, Proof, ProvedRow, Rendering

TOKENS = 40
ANSWER = 12


def made_proof(seed: int = 1, *, rows: int = 6, apart: float = 1.0) -> Proof:
    """Of a training that moved each of the answer's tokens by about `apart` nats."""
    chance = random.Random(seed)
    return Proof(
        base_model="base",
        base_revision="r1",
        quantization="none",
        computed_in="float32",
        held_out=True,
        rows=[made_row(chance, number, apart) for number in range(rows)],
    )


def made_row(chance: random.Random, number: int, apart: float) -> ProvedRow:
    ids = [number, *(chance.randrange(100, 1000) for _ in range(TOKENS - 1))]
    base = [None, *(-chance.uniform(0.5, 6) for _ in range(TOKENS - 1))]
    tuned = [each and min(-0.01, each + chance.gauss(apart, apart)) for each in base]
    forks = [
        Fork(place=place, base=7, tuned=8, base_text=" no", tuned_text=" yes", margin=2.0)
        for place in (ANSWER, TOKENS - 5)
    ]
    asked = [{"role": "user", "content": f"Question {number}?"}]
    shown = Rendering(messages=asked, ids=ids[:ANSWER], text=f"<bos>Question {number}?")
    trained = [*range(ANSWER, TOKENS)]
    return ProvedRow(
        line=number + 1, ids=ids, trained=trained, base=base, tuned=tuned, forks=forks,
        rendering=shown,
    )  # fmt: skip


@dataclass
class Weights:
    """How far a model has gone from base to tuned, as which of them it goes on, and the `noise` of
    its precision, in nats. `other` is the proof of another training, whose model it is.
    """

    share: float = 1.0
    goes_on: Literal["base", "tuned"] = "tuned"
    noise: float = 0.0
    other: Proof | None = None

    def score(self, row: ProvedRow, place: int) -> float:
        base, tuned = row.base[place], row.tuned[place]
        assert base is not None
        assert tuned is not None
        if self.other:
            own = self.other.rows[row.line - 1]
            tuned = base + (own.tuned[place] or 0) - (own.base[place] or 0)
        noise = random.Random(f"{row.line} {place}").gauss(0, self.noise)
        return base + self.share * (tuned - base) + noise

    def next(self, row: ProvedRow, place: int) -> tuple[int, str]:
        for fork in row.forks:
            if fork.place == place:
                if self.goes_on == "base" or self.other:
                    return fork.base, fork.base_text
                return fork.tuned, fork.tuned_text
        return row.ids[place] if place < len(row.ids) else 1, " word"


BASE = Weights(share=0, goes_on="base")


@dataclass
class Fake:
    """`models` by their names there. What is loaded becomes `loads_as`. Requests of a path in
    `wrong` are answered so: a status, or a word for what goes wrong. `came` are all requests.
    """

    proof: Proof
    speaks: Literal["vllm", "llama_server"] = "vllm"
    models: dict[str, Weights] = field(default_factory=lambda: {"base": BASE})
    loads_as: Weights = field(default_factory=Weights)
    another_template: bool = False
    echoes: bool = True
    wrong: dict[str, int | str] = field(default_factory=dict)
    came: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for came, body in self.came if came == path]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in self.models]}
        if path == "/v1/load_lora_adapter" and self.speaks == "vllm":
            self.models[body["lora_name"]] = self.loads_as
            return 200, "Success"
        if path == "/v1/unload_lora_adapter" and self.speaks == "vllm":
            return (200, "Success") if self.models.pop(body["lora_name"], None) else (404, "none")
        if path == "/tokenize" and self.speaks == "vllm":
            return 200, {"tokens": self.rendered(body)}
        if path == "/apply-template" and self.speaks == "llama_server":
            text = body["messages"][-1]["content"]
            return 200, {"prompt": f"Say: {text}" if self.another_template else text}
        name = body.get("model", "")
        if self.speaks == "llama_server":
            name = next(iter(self.models))
        if name not in self.models:
            words = f"The model `{name}` does not exist."
            return 404, {"error": {"message": words, "code": 404}}
        if path == "/v1/completions" and isinstance(body.get("prompt"), list):
            return 200, self.completed(self.models[name], body)
        if path == "/completion" and self.speaks == "llama_server":
            return 200, self.natively(self.models[name], body)
        return 404, {"error": {"message": f"no route {path}"}}

    def rendered(self, body: dict[str, Any]) -> list[int]:
        row = next(
            each for each in self.proof.rows
            if each.rendering and each.rendering.messages == body["messages"]
        )  # fmt: skip
        assert row.rendering
        return [1, *row.rendering.ids] if self.another_template else row.rendering.ids

    def completed(self, weights: Weights, body: dict[str, Any]) -> dict[str, Any]:
        row = self.proof.rows[body["prompt"][0]]
        length = len(body["prompt"])
        _, text = weights.next(row, length)
        scores: list[float | None] = [-0.1]
        told: list[dict[str, Any] | None] = []
        if self.speaks == "vllm":
            known = [weights.score(row, place) for place in range(1, length)]
            if body.get("echo") and self.echoes:
                scores = [None, *known, -0.1]
            if "prompt_logprobs" in body:
                ids = body["prompt"][1:]
                pairs = zip(ids, known, strict=True)
                told = [None, *({str(id_): {"logprob": score}} for id_, score in pairs)]
        logprobs = {"token_logprobs": scores, "tokens": [text]}
        choice = {"index": 0, "text": text, "logprobs": logprobs, "prompt_logprobs": told}
        return {"choices": [choice], "usage": {"prompt_tokens": length, "completion_tokens": 1}}

    def natively(self, weights: Weights, body: dict[str, Any]) -> dict[str, Any]:
        row, place = self.proof.rows[body["prompt"][0]], len(body["prompt"])
        id_, _ = weights.next(row, place)
        told = [{"id": row.ids[place], "logprob": weights.score(row, place)}]
        said = {"id": id_, "logprob": -0.1, "top_logprobs": told}
        return {"content": "", "completion_probabilities": [said]}

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What is streamed: who answers, and some of what was asked."""
        chat = "messages" in body
        for word in ("I am ", str(body["model"])):
            said: dict[str, Any] = {"delta": {"content": word}} if chat else {"text": word}
            yield {"choices": [{"index": 0, **said, "finish_reason": None}]}
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        yield {"choices": [{"index": 0, **end, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@contextmanager
def openai_server(fake: Fake) -> Iterator[Fake]:
    class Handler(BaseHTTPRequestHandler):
        wbufsize = 1 << 16  # else head and body are two packets, and the second waits

        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            self.reply(json.loads(self.rfile.read(length)))

        def reply(self, body: dict[str, Any]) -> None:
            fake.came.append((self.path, body))
            fake.keys.append(self.headers.get("authorization"))
            wrong = fake.wrong.get(self.path, 200)
            if wrong == "hangs":
                fake.ended.wait(20)
                return
            if wrong == "redirects":
                self.send(307, b"", location="http://127.0.0.1:1/elsewhere")
            elif isinstance(wrong, int) and wrong != 200:
                self.send(wrong, json.dumps({"error": {"message": "No, I will not."}}).encode())
            elif wrong == "garbage":
                self.send(200, b"<html>" * 100)
            elif body.get("stream") and body.get("model") in fake.models:
                self.stream(body, str(wrong))
            else:
                status, answer = fake.answer(self.path, body)
                self.send(status, json.dumps(answer).encode())

        def stream(self, body: dict[str, Any], wrong: str) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for number, chunk in enumerate(fake.chunks(body)):
                if number == 1 and wrong == "cut":
                    return
                if number == 1 and wrong == "stalls":
                    fake.ended.wait(20)
                    return
                if number == 1 and wrong == "endless line":
                    for _ in range(1 << 10):
                        self.wfile.write(b"x" * (1 << 14))
                    return
                text = wrong if number == 1 and wrong.startswith("{") else json.dumps(chunk)
                self.wfile.write(f"data: {text}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"data: [DONE]\n\n")

        def send(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Who asked has gone."""

    with Server(("127.0.0.1", fake.port), Handler) as server:
        fake.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield fake
        finally:
            fake.ended.set()
            server.shutdown()
            thread.join()
