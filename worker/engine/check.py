"""`python -m worker.engine.check`: whether a training would find what it needs on this machine. It
prints a finding a line, as JSON. `--nvidia`: there is a GPU of NVIDIA's, whatever PyTorch says.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version

import torch

from tunery.findings import Finding, ok, warn, wrong
from worker.engine.device import device, device_memory, device_name, unusable

# Beside what a driver and a desktop take.
FREE_SHARE = 0.9


def look(*, nvidia: bool) -> Iterator[Finding]:
    packages = ("transformers", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cuda = f" for CUDA {torch.version.cuda}" if torch.version.cuda else " for CPUs"
    yield ok("pytorch", f"PyTorch {torch.__version__}{cuda}, {versions}.")
    if why := unusable():
        yield wrong("gpu", why, "As it says; then run this again.")
    elif device().type == "cpu":
        yield no_gpu(nvidia=nvidia)
    else:
        yield from gpu()


def no_gpu(*, nvidia: bool) -> Finding:
    if not nvidia:
        return warn(
            "gpu",
            "There is no GPU here: this worker trains on the CPU, which is good for small models.",
            "If there should be one: nvidia-smi must show it, and in a container it must be handed "
            "in (--gpus all).",
        )
    if torch.version.cuda is None:
        return wrong(
            "gpu",
            "There is an NVIDIA GPU, and this PyTorch is a build for CPUs.",
            "Install the build for CUDA: pip install --force-reinstall -c constraints.txt torch.",
        )
    return wrong(
        "gpu",
        "There is an NVIDIA driver, and PyTorch finds no GPU.",
        "nvidia-smi must show one; is CUDA_VISIBLE_DEVICES empty, or the GPU not handed into this "
        "container (--gpus all)?",
    )


def gpu() -> Iterator[Finding]:
    major, minor = torch.cuda.get_device_capability()
    free, whole = torch.cuda.mem_get_info()
    name = f"{device_name()}, compute capability {major}.{minor}, {device_memory() / 2**30:.0f} GiB"
    yield ok("gpu", f"{name}.")
    if free < FREE_SHARE * whole:
        yield warn(
            "gpu memory",
            f"{(whole - free) / 2**30:.1f} GiB of the GPU's memory are in use.",
            "A worker that runs here may hold them. Else end the program that does: nvidia-smi "
            "names it.",
        )
    else:
        yield ok("gpu memory", f"{free / 2**30:.0f} GiB are free.")
    yield from computes()


def computes() -> Iterator[Finding]:
    """bf16 and a 4-bit layer on the device itself: a driver, a build and a GPU that do not fit
    together show here first.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # noqa: PLC0415

    ones = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    try:
        product = float((ones @ ones).sum())
        packed, state = quantize_4bit(ones, quant_type="nf4")
        unpacked = float(dequantize_4bit(packed, state).sum())
        torch.cuda.synchronize()
    except RuntimeError as error:
        first, *_ = str(error).splitlines()
        yield wrong(
            "gpu computes",
            f"The GPU does not compute: {first}",
            "Install torch and bitsandbytes as they were tested: pip install -c constraints.txt "
            '".[worker]". If that changes nothing, look at dmesg for the driver\'s errors.',
        )
        return
    if product != 64.0**3 or unpacked != 64.0**2:
        yield wrong(
            "gpu computes",
            f"The GPU computes wrongly ({product:g} for 262144, {unpacked:g} for 4096).",
            "Look at dmesg for the driver's errors, and do not use this GPU.",
        )
    else:
        yield ok("gpu computes", "bf16 and 4-bit layers compute.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.engine.check")
    parser.add_argument("--nvidia", action="store_true", help="there is a GPU of NVIDIA's")
    for finding in look(nvidia=parser.parse_args().nvidia):
        sys.stdout.write(json.dumps(finding.model_dump()) + "\n")


if __name__ == "__main__":
    main()
