"""What it costs to ask a server through Tunery: `python -m benchmarks.proxy`.

The server answers at once, in 16 pieces, from a process of its own. One client asks it directly and
through Tunery in turns, each over a connection that stays open, one request after the other. Shown
are wall-clock times, the median of each and of the pairs' differences, and the processor's time
that Tunery's API takes for a request, which a busy machine stretches less.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn

from tunery.cli.service import DEMO_MODEL, running

PORT, THEIR_PORT = 18410, 18411
PIECES, WARM, PAIRS = 16, 30, 300


async def upstream(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 (ASGI)
    """A model that says sixteen words."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/v1/chat/completions":
        async for chunk in chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def chunks() -> AsyncIterator[bytes]:
    said: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}
    ] * PIECES
    said.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    said.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": PIECES}})
    for chunk in said:
        yield f"data: {json.dumps(chunk)}\n\n".encode()


def ask(client: httpx.Client) -> tuple[float, float]:
    """Milliseconds to (the first word, the end)."""
    messages = [{"role": "user", "content": "Say sixteen words."}]
    body = {"model": DEMO_MODEL, "messages": messages, "stream": True}
    began, first = time.perf_counter(), 0.0
    with client.stream("POST", "/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not first and "word" in line:
                first = time.perf_counter() - began
    return 1000 * first, 1000 * (time.perf_counter() - began)


def measure(direct: httpx.Client, proxied: httpx.Client) -> None:
    for _ in range(WARM):
        ask(direct), ask(proxied)
    before = api_seconds()
    pairs = [(ask(direct), ask(proxied)) for _ in range(PAIRS)]
    of_processor = 1000 * (api_seconds() - before) / PAIRS
    print("| milliseconds, median | directly | through Tunery | difference p50 | p90 |")
    print("|---|---|---|---|---|")
    for number, what in enumerate(("to the first word", f"to the end of {PIECES} words")):
        ones, others = ([pair[side][number] for pair in pairs] for side in (0, 1))
        apart = [pair[1][number] - pair[0][number] for pair in pairs]
        p90 = statistics.quantiles(apart, n=10)[-1]
        print(
            f"| {what} | {statistics.median(ones):.2f} | {statistics.median(others):.2f} "
            f"| {statistics.median(apart):.2f} | {p90:.2f} |"
        )
    print(f"The API's processor time: {of_processor:.2f} ms a request")


def api_seconds() -> float:
    """Of processor time that the API has taken."""
    for child in psutil.Process().children(recursive=True):
        if child.cmdline()[1:3] == ["-m", "api"]:
            times = child.cpu_times()
            return times.user + times.system
    raise RuntimeError("the API does not run")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", action="store_true")
    if parser.parse_args().upstream:
        uvicorn.run(upstream, port=THEIR_PORT, log_level="warning")
        return
    theirs = f"http://127.0.0.1:{THEIR_PORT}/v1"
    server = subprocess.Popen((sys.executable, "-m", "benchmarks.proxy", "--upstream"))
    try:
        with tempfile.TemporaryDirectory() as name, running(Path(name) / "d", PORT, print) as up:
            admin = {"authorization": f"Bearer {up.admin_key}"}
            asked = {"url": theirs, "bases": [DEMO_MODEL]}
            httpx.post(
                f"{up.base_url}/admin/endpoints", json=asked, headers=admin
            ).raise_for_status()
            time.sleep(2)
            key = {"authorization": f"Bearer {up.api_key}"}
            with (
                httpx.Client(base_url=theirs, timeout=60) as direct,
                httpx.Client(base_url=up.base_url, headers=key, timeout=60) as proxied,
            ):
                measure(direct, proxied)
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
