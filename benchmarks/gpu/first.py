"""The first ten minutes on a GPU that nobody has run this on: `make bench-gpu-first`.

    python -m benchmarks.gpu.first [STAGE ...] [--tiny] [--log FILE]

In order of what the answers decide. Each stage is a process with a time of its own, so that a
poisoned CUDA context or a hang costs one stage. All that is said goes to the log, and the figures
to the terminal as well. With --tiny all of it runs on a CPU, to see that it works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.bases import Kind, random_base
from benchmarks.gpu.report import machine, on_gpu
from benchmarks.gpu.sizes import FULL
from benchmarks.gpu.steps import micro_step
from tests.engine.conftest import MakeOrder, orders_in, ten_chats
from tests.engine.encoders import encoder, texts
from tunery.base_model import files_of
from tunery.spec import MaskedLm, Preference
from worker.engine.device import compute_dtype, device, memory_in_use
from worker.engine.kernels import chosen
from worker.engine.model.attention import attention
from worker.engine.model.base import WarmBase
from worker.engine.model.documents import Documents, packed_as
from worker.engine.model.uncompiled import dequantize_4bit, quantize_4bit
from worker.engine.train import train
from worker.protocol import Checkpointed, Finished, Report, Stepped

# Seconds in all, and for each stage, whichever comes first. Slices of `benchmarks.gpu` keep their
# own names.
IN_ALL = 560
STAGES = {
    "env": 40,
    "kernels": 60,
    "jobs": 120,
    "syncs": 60,
    "steps-8b": 150,
    "steps-8b-nf4": 120,
    "fused": 60,
    "fit": 100,
    "head": 40,
}
MIB, TERA = 2**20, 1e12
# Of an 8B model's products: (tokens, out, in).
PRODUCTS = (
    (8192, 4096, 4096),
    (8192, 14_336, 4096),
    (8192, 4096, 14_336),
    (8192, 16, 4096),
    (8192, 1024, 4096),
)
# (heads, key heads, width, causal, lengths of documents)
ATTENTIONS = (
    (32, 8, 128, True, (1, 700, 3, 1348, 64)),
    (32, 32, 64, True, (129, 1, 511)),
    (4, 2, 16, True, (5, 9, 1, 30)),
    (12, 12, 64, False, (1, 200, 311)),
    (8, 1, 256, True, (65, 300)),
    (32, 32, 80, True, (65, 300)),
    (16, 2, 32, False, (7, 8)),
)
SAID = "> "


def say(words: str) -> None:
    print(f"{SAID}{words}", flush=True)


def seconds_of(work: Callable[[], object], times: int = 10) -> float:
    work()
    wait()
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - began) / times


def wait() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def off(found: Tensor, wanted: Tensor) -> float:
    """By norm."""
    apart, whole = (found.float() - wanted.float()).norm(), wanted.float().norm()
    return float(apart / whole.clamp(min=1e-30))


def env() -> None:
    """What there is, and whether it is as fast as its data sheet."""
    say(machine())
    if on_gpu():
        free, total = torch.cuda.mem_get_info()
        name = "--query-gpu=name,driver_version,memory.used"
        asked = ["nvidia-smi", name, "--format=csv,noheader"]
        say(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip())
        say(f"context and others hold {(total - free) / MIB:.0f} MiB")
    smaller = 1 if on_gpu() else 64
    for tokens, out, in_ in PRODUCTS:
        x, weight = (
            torch.randn(rows // smaller or 1, in_, device=device(), dtype=compute_dtype())
            for rows in (tokens, out)
        )
        seconds = seconds_of(lambda x=x, weight=weight: x @ weight.T)  # type: ignore[misc]
        rate = 2 * len(x) * len(weight) * in_ / seconds / TERA
        say(f"product {len(x)} x {len(weight)} x {in_}: {1e6 * seconds:.0f} us, {rate:.2f} TFLOP/s")
    there = torch.empty(2**31 // smaller, dtype=torch.uint8, device=device())
    to = torch.empty_like(there)
    seconds = seconds_of(lambda: to.copy_(there))
    say(f"copy: {2 * there.nbytes / seconds / TERA:.3f} TB/s")


class Layer(torch.nn.Module):
    is_causal = True


def kernels() -> None:
    """Attention beside its meaning in fp32, and 4 bits beside a CPU's."""
    torch.manual_seed(0)
    for heads, keys, width, causal, lengths in ATTENTIONS:
        shape = f"attention {heads}/{keys} x {width}, causal {causal}, {lengths}"
        try:
            out, gradients = attention_off(heads, keys, width, lengths, causal=causal)
            say(f"{shape}: {out:.1e} off, its gradients {', '.join(gradients)}")
        except Exception as error:  # noqa: BLE001  (the next ones have their figures)
            traceback.print_exc()
            say(f"{shape}: FAILED {type(error).__name__}: {str(error)[:200]}")
    weight = torch.randn(512, 1024).bfloat16()
    for kind in ("nf4", "fp4"):
        here, there = (
            quantize_4bit(each, quant_type=kind, compress_statistics=True)
            for each in (weight, weight.to(device()))
        )
        values = [dequantize_4bit(*each).cpu() for each in (here, there)]
        same = torch.equal(here[0].flatten(), there[0].cpu().flatten())
        say(f"{kind}: codes as a CPU's: {same}; values {off(values[1], values[0]):.1e} off")


def attention_off(
    heads: int, keys: int, width: int, lengths: tuple[int, ...], *, causal: bool
) -> tuple[float, list[str]]:
    """How far result and gradients are from those of each document by itself in fp32."""
    layer, tokens = Layer(), sum(lengths)
    layer.is_causal = causal
    states = [
        torch.randn(1, count, tokens, width, device=device(), dtype=compute_dtype())
        for count in (heads, keys, keys)
    ]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    up = torch.randn(1, tokens, heads, width, device=device())
    given = [each.requires_grad_() for each in states]
    with packed_as(Documents(lengths, bounds.to(device()))):
        out, _ = attention(layer, given[0], given[1], given[2], None, width**-0.5)
    gradients = torch.autograd.grad(out, given, up.to(out.dtype))
    exact = [each.detach().float().requires_grad_() for each in states]
    outs = []
    for q, k, v in zip(*(torch.split(each, list(lengths), dim=2) for each in exact), strict=True):
        k, v = (each.repeat_interleave(heads // keys, dim=1) for each in (k, v))  # noqa: PLW2901
        scores = q @ k.mT * width**-0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        outs.append(scores.softmax(-1) @ v)
    wanted = torch.cat(outs, dim=2).transpose(1, 2)
    exactly = torch.autograd.grad(wanted, exact, up)
    apart = [f"{off(one, other):.1e}" for one, other in zip(gradients, exactly, strict=True)]
    return off(out, wanted), apart


PAIRS: list[dict[str, Any]] = [
    {
        "input": {"messages": [{"role": "user", "content": "Say it. " * (1 + number % 4)}]},
        "preferred_output": [{"role": "assistant", "content": f"yes {number}"}],
        "non_preferred_output": [{"role": "assistant", "content": "no " * (1 + number % 3)}],
    }
    for number in range(10)
]
JOBS: dict[str, dict[str, Any]] = {
    "16 bits": {"quantization": "none"},
    "16 bits again": {"quantization": "none"},
    "nf4": {"quantization": "nf4"},
    "fp4": {"quantization": "fp4", "double_quant": False},
    "int8": {"quantization": "int8"},
    "all weights": {"lora": None, "learning_rate": 1e-4},
    "preference": {"quantization": "none", "objective": Preference(beta=0.1), "rows": PAIRS},
    "masked": {
        "quantization": "none",
        "objective": MaskedLm(mask_probability=0.3),
        "max_length": 60,
        "rows": texts(10),
    },
    "adamw_8bit": {"quantization": "none", "optimizer": "adamw_8bit"},
    "paged_adamw_8bit": {"quantization": "none", "optimizer": "paged_adamw_8bit"},
}


def jobs() -> None:
    """Whole trainings of a tiny model: whether each method ends, what it leaves on the device, and
    whether the same one gives the same, resumed or not.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (copies := folder / "copies").mkdir()
        make, bases = orders_in(folder, copies), WarmBase()
        encoders = encoder(folder / "bert", "bert")
        found: dict[str, tuple[Tensor, Path]] = {}
        for name, settings in JOBS.items():
            try:
                found[name] = job(name, settings, make, bases, encoders)
            except Exception as error:  # noqa: BLE001  (the next ones have their figures)
                traceback.print_exc()
                say(f"{name}: FAILED {type(error).__name__}: {str(error)[:300]}")
        if {"16 bits", "16 bits again"} <= found.keys():
            one, kept = found["16 bits"]
            again, _ = found["16 bits again"]
            resumed, _ = job("resumed", JOBS["16 bits"], make, bases, encoders, kept)
            for other, words in ((again, "twice"), (resumed, "resumed")):
                say(f"the same {words}: {off(other, one):.1e} off, {torch.equal(other, one)}")


def job(
    name: str,
    settings: dict[str, Any],
    make: MakeOrder,
    bases: WarmBase,
    encoders: Path,
    checkpoint: Path | None = None,
) -> tuple[Tensor, Path]:
    """All that it trained, and its first checkpoint."""
    settings = dict(settings)
    rows = settings.pop("rows", ten_chats())
    samples = 0 if name == "masked" else 1
    order = make(rows, valid=rows[:3], samples=samples, checkpoint=checkpoint, **settings)
    if name == "masked":
        update = {"base_folder": encoders, "base_files": files_of(encoders)}
        order = order.model_copy(update=update)
    reports, began = list[Report](), time.monotonic()
    train(order, bases, reports.append, lambda: None)
    losses = [each.metrics.train_loss for each in reports if isinstance(each, Stepped)]
    (result,) = (each.folder for each in reports if isinstance(each, Finished))
    kept = [each.folder for each in reports if isinstance(each, Checkpointed)]
    memory_in_use()  # only its peak is forgotten
    held = torch.cuda.memory_allocated() / MIB if on_gpu() else 0.0
    words = f"loss {losses[0]:.4f} to {losses[-1]:.4f}, {held:.1f} MiB held after it"
    say(f"{name}: {time.monotonic() - began:.1f} s, {words}")
    tensors = load_file(next(result.glob("*.safetensors")))
    return torch.cat([tensors[each].flatten().float() for each in sorted(tensors)]), kept[0]


def fused() -> None:
    """A micro-step with plain and with fused kernels, and which to take."""
    if not on_gpu():
        say("fused kernels: there is no GPU")
        return
    seconds: dict[chosen.Kernels, list[float]] = {"plain": [], "fused": []}
    model = random_base(kind := Kind(FULL.small))
    for tokens in (2048, 8192):
        for which, found in seconds.items():
            chosen.choose(which)
            found.append(micro_step(FULL, kind, model, tokens, checkpointing=False))
            say(f"1B, {tokens} tokens, {which} kernels: {1e3 * found[-1]:.1f} ms")
    if not chosen.proven():
        say("FAILED: fused kernels are not those of their twins here, see the log")
    elif all(one < other for one, other in zip(*reversed(seconds.values()), strict=True)):
        say("take fused kernels: TUNERY_KERNELS=fused")
    else:
        say("take plain kernels")


OWN: dict[str, Callable[[], None]] = {
    "env": env,
    "kernels": kernels,
    "jobs": jobs,
    "fused": fused,
}


def command(stage: str, *, tiny: bool) -> list[str]:
    started = [sys.executable, "-X", "faulthandler", "-m"]
    if stage in OWN:
        return [*started, "benchmarks.gpu.first", "--stage", stage]
    return [*started, "benchmarks.gpu", "--only", stage, *(["--tiny"] if tiny else [])]


def run(stages: list[str], log: Path, *, tiny: bool) -> Iterator[str]:
    """Those that failed."""
    began = time.monotonic()
    for stage in stages:
        left = IN_ALL - (time.monotonic() - began)
        said, ended = b"", "its time was up"
        try:
            done = subprocess.run(
                command(stage, tiny=tiny),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=max(1, min(left, STAGES[stage])),
            )
            said, ended = done.stdout, f"exit {done.returncode}"
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        with log.open("ab") as file:
            file.write(said)
        lines = said.decode(errors="replace").splitlines()
        failed = ended != "exit 0" or any("FAILED" in line for line in lines)
        shown = [line for line in lines if line.startswith(SAID)] if stage in OWN else lines
        shown += lines[-8:] if ended != "exit 0" else []
        print(f"\n## {stage}: {ended}", *shown, sep=os.linesep, flush=True)
        if failed:
            yield stage


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu.first")
    options.add_argument("stages", nargs="*", help=f"these alone: {' '.join(STAGES)}")
    options.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    options.add_argument("--log", type=Path, default=Path("build/first.log"))
    options.add_argument("--stage", choices=OWN, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.stage:
        warnings.simplefilter("ignore")
        OWN[asked.stage]()
        return
    if unknown := set(asked.stages) - STAGES.keys():
        raise SystemExit(f"There is no stage {', '.join(unknown)}; there are {', '.join(STAGES)}.")
    if not (on_gpu() or asked.tiny):
        raise SystemExit("There is no CUDA device. With --tiny it can be tried on a CPU.")
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    if failed := list(run(asked.stages or list(STAGES), asked.log, tiny=asked.tiny)):
        raise SystemExit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
