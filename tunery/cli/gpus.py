"""The machine's GPUs, as the driver's own `nvidia-smi` lists them."""

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GPU = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[\w-]+)\)")
SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[\w/-]+)\)")
VISIBLE = "CUDA_VISIBLE_DEVICES"
PER_JOB = "TUNERY_GPUS_PER_JOB"
ASK_SECONDS = 60
HOW_WITHOUT = "`--gpus none` starts one worker on the CPU."


class NoSuchGpu(Exception):
    """What is asked for is not there; the message says what is."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a slice of one that is cut up (MIG). CUDA counts in an order of its own: only
    `uuid` says the same to everybody.
    """

    label: str
    index: int
    name: str
    uuid: str


def chosen(asked: str, environment: Mapping[str, str]) -> list[Gpu]:
    """Those of `all`, or of numbers between commas as `nvidia-smi` counts them; none of `none`. In
    `all` are only those that CUDA_VISIBLE_DEVICES leaves, where it is set.

    Raises:
        NoSuchGpu: there is none, or not the one that is named.

    """
    if asked == "none":
        return []
    visible = environment.get(VISIBLE)
    if asked != "all" and not re.fullmatch(r"\d+(,\d+)*", asked):
        raise NoSuchGpu(f'--gpus is "all", "none" or numbers like 0,2, not {asked!r}')
    if asked != "all" and visible is not None:
        raise NoSuchGpu(f"--gpus {asked} and {VISIBLE}={visible} both say which: unset one of them")
    there = found()
    if not there:
        raise NoSuchGpu(f"no NVIDIA GPU is found here. {HOW_WITHOUT}")
    if asked == "all":
        left = there if visible is None else left_by(visible.split(","), there)
        if not left:
            raise NoSuchGpu(f"{VISIBLE}={visible} leaves none of {listed(there)}. {HOW_WITHOUT}")
        return left
    numbers = [int(number) for number in asked.split(",")]
    if missing := sorted(set(numbers) - {gpu.index for gpu in there}):
        raise NoSuchGpu(f"there is no GPU {missing[0]}, only {listed(there)}")
    return [gpu for gpu in there if gpu.index in numbers]


def environments(own: Mapping[str, str], gpus: list[Gpu]) -> dict[str, dict[str, str]]:
    """What each worker gets, by its GPUs' labels: as many of them as its own environment says, a
    name and a folder of its own. Without a GPU one worker, on the CPU.

    Raises:
        NoSuchGpu: they cannot be dealt so.

    """
    name = own.get("TUNERY_WORKER_NAME") or socket.gethostname()
    said = own.get(PER_JOB) or "1"
    per_job = int(said) if re.fullmatch(r"[1-9]\d?", said) else 0
    if not per_job:
        raise NoSuchGpu(f"{PER_JOB} is a number of GPUs, not {said!r}")
    if left := len(gpus) % per_job:
        raise NoSuchGpu(
            f"{per_job} GPUs for each job leave {left} of {listed(gpus)} without a worker. Name "
            "with --gpus those to use, and start another `tunery worker` for the rest"
        )
    if per_job > 1 and any(gpu.uuid.startswith("MIG-") for gpu in gpus):
        raise NoSuchGpu(
            f"{per_job} GPUs for each job must be whole ones, and some of {listed(gpus)} are "
            "slices (MIG), which cannot train together"
        )
    groups = [gpus[first : first + per_job] for first in range(0, len(gpus), per_job)]
    seen = {"+".join(each.label for each in group): group for group in groups} or {"cpu": []}
    return {
        label: {
            **own,
            VISIBLE: ",".join(gpu.uuid for gpu in group),
            "TUNERY_WORKER_NAME": f"{name}-{label}",
            "TUNERY_WORK_DIR": str(Path(own["TUNERY_WORK_DIR"]) / label),
        }
        for label, group in seen.items()
    }


def left_by(visible: list[str], there: list[Gpu]) -> list[Gpu]:
    """As CUDA has it: numbers, or beginnings of UUIDs; from the first that is neither, nothing."""
    left: list[Gpu] = []
    for word in map(str.strip, visible):
        of_word = [gpu for gpu in there if word == str(gpu.index) or gpu.uuid.startswith(word)]
        if not word or not of_word:
            break
        left += (gpu for gpu in of_word if gpu not in left)
    return left


def listed(gpus: list[Gpu]) -> str:
    return ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)


def found() -> list[Gpu]:
    """Empty where there is no driver. A GPU that is cut up is not there itself, its slices are.

    Raises:
        NoSuchGpu: there is a driver, and it does not answer.

    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        told = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSuchGpu(f"`nvidia-smi -L` does not answer ({error})") from error
    if told.returncode:
        words = (told.stdout + told.stderr).strip()
        if "No devices were found" in words:
            return []
        raise NoSuchGpu(f"`nvidia-smi -L` failed: {words}")
    gpus: list[Gpu] = []
    for line in told.stdout.splitlines():
        if whole := GPU.match(line):
            number, name, uuid = whole.groups()
            gpus.append(Gpu(f"gpu{number}", int(number), name, uuid))
        elif (part := SLICE.match(line)) and gpus:
            of = gpus[-1]
            if of.uuid.startswith("GPU-"):
                gpus.pop()
            kind, number, uuid = part.groups()
            name = f"{of.name.partition(' MIG ')[0]} MIG {kind}"
            gpus.append(Gpu(f"gpu{of.index}-mig{number}", of.index, name, uuid))
    return gpus
