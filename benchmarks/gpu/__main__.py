"""The engine on one GPU: `make bench-gpu`, in slices of at most 10 minutes each.

    python -m benchmarks.gpu [--only SLICE ...] [--tiny] [--folder DIR] [--unsloth-python PATH]

Random weights in the shapes of Llama 3.2 1B and 3.1 8B; nothing is downloaded. Each slice prints
its tables row by row and each as a line of JSON. With --tiny everything is small enough for a CPU;
what a CPU cannot do is said where it would stand.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.bases import Kind, let_go
from benchmarks.gpu.head import head
from benchmarks.gpu.peers import compare
from benchmarks.gpu.report import machine, on_gpu
from benchmarks.gpu.sizes import FULL, TINY, Size
from benchmarks.gpu.start import start
from benchmarks.gpu.steps import fit, steps, syncs

Slice = Callable[[str], None]


def slices(size: Size, folder: Path, unsloth: Path | None) -> dict[str, Slice]:
    small, large = Kind(size.small), Kind(size.large)
    nf4 = Kind(size.large, "nf4")
    kept = Kind(size.large, "nf4", dequantized=True)
    peers = partial(compare, size, folder)
    return {
        "syncs": partial(syncs, size, kinds=[small, Kind(size.small, "nf4"), kept]),
        "steps-1b": partial(steps, size, kinds=[small]),
        "steps-8b": partial(steps, size, kinds=[large]),
        "steps-8b-nf4": partial(steps, size, kinds=[nf4, kept]),
        "fit": partial(fit, size, kinds=[small, large, nf4, kept]),
        "head": partial(head, size),
        "start": partial(start, size, folder),
        "trl-8b": partial(peers, kind=large, peer="TRL", python=Path(sys.executable)),
        "trl-8b-nf4": partial(peers, kind=nf4, peer="TRL", python=Path(sys.executable)),
        "unsloth-8b": partial(peers, kind=large, peer="Unsloth", python=unsloth),
        "unsloth-8b-nf4": partial(peers, kind=nf4, peer="Unsloth", python=unsloth),
    }


def main() -> None:
    names = list(slices(TINY, Path(), None))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these alone")
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    parser.add_argument("--folder", type=Path, help="keeps the written weights (8B: 16 GB) there")
    parser.add_argument("--unsloth-python", type=Path, help="a Python that has unsloth installed")
    asked = parser.parse_args()
    if not (on_gpu() or asked.tiny):
        raise SystemExit("There is no CUDA device. With --tiny it can be tried on a CPU.")
    if not on_gpu():
        torch.set_num_threads(1)  # as the engine does for such narrow bases
    print(f"{machine()}.")
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        folder.mkdir(exist_ok=True, parents=True)
        all_slices = slices(TINY if asked.tiny else FULL, folder, asked.unsloth_python)
        failed = []
        for name in asked.only:
            began = time.monotonic()
            try:
                all_slices[name](name)
            except Exception:  # noqa: BLE001  (the next ones have their figures)
                traceback.print_exc()
                failed.append(name)
            let_go()  # the next one may start processes of its own on the GPU
            print(f"\nSlice {name}: {time.monotonic() - began:.0f} s.", flush=True)
    if failed:
        raise SystemExit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
