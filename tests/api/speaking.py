"""What a worker says, in few words."""

from pathlib import Path

from tests.factories import worker_facts
from tunery import messages
from tunery.base_model import file_facts
from tunery.facts import FileFacts
from tunery.states import FailureClass
from worker.client import Client

ADAPTER = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": b"weights",
    "manifest.json": b"{}",
    "metrics.csv": b"step,train_loss\n1,0.5\n",
}

MODEL = {
    "config.json": b"{}",
    "manifest.json": b"{}",
    "model.safetensors": b"weights",
    "metrics.csv": b"step,train_loss\n1,0.5\n",
}


PLAN = {
    "quantization": "nf4",
    "dequantized": False,
    "checkpointing": False,
    "micro_tokens": 64,
    "peak_bytes": 1,
}

EXAMINED = {
    "way": "packed, taken apart for Mamba",
    "device": "cuda",
    "torch": "2.13.0+cu130",
    "transformers": "5.23.0",
    "peft": "0.21.2",
}


def claim(worker: Client, name: str = "w1") -> messages.Lease | None:
    return worker.claim(worker_facts(name))


def directive(worker: Client, lease: messages.Lease, name: str = "w1") -> str:
    beat = messages.LeaseBeat(job_id=lease.job_id, token=lease.token, step=7)
    (answer,) = worker.heartbeat(worker_facts(name), [beat]).leases
    return answer.directive


def send(
    worker: Client, lease: messages.Lease, folder: Path, files: dict[str, bytes]
) -> list[FileFacts]:
    sent = []
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        sent.append(file_facts(path))
        worker.upload(lease, path, sent[-1], patience=0)
    return sent


def finish(
    worker: Client,
    lease: messages.Lease,
    result: messages.Succeeded | messages.Failed | messages.Released,
) -> None:
    worker.finish(lease, messages.FinishRequest(result=result), patience=0)


def succeeded(files: list[FileFacts]) -> messages.Succeeded:
    return messages.Succeeded(trained_tokens=99, files=files, metrics_csv="metrics.csv")


def failed(kind: FailureClass, message: str = "it broke") -> messages.Failed:
    return messages.Failed(failure_class=kind, code="broke", message=message, log_tail="the log")
