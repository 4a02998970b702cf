"""`python -m worker.engine --commands FD --reports FD`: it lives as long as its agent."""

import argparse
import ctypes
import faulthandler
import gc
import logging
import os
import shutil
import signal
import subprocess

from tunery import privileges

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    # The agent asks an engine that hangs for its stacks, which go to the log.
    faulthandler.register(signal.SIGUSR1)
    die_with_parent()
    make_device_files()
    privileges.give_up()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="python -m worker.engine")
    parser.add_argument("--commands", type=int, required=True, help="descriptor to read lines from")
    parser.add_argument("--reports", type=int, required=True, help="descriptor to write lines to")
    parser.add_argument(
        "--answer-share",
        type=float,
        default=0.05,
        help="of a training's time, the most that answers beside it take",
    )
    parser.add_argument(
        "--alone", action="store_true", help="take the GPU for itself, or say that it is taken"
    )
    parser.add_argument(
        "--kernels", choices=["plain", "fused"], default="plain", help="what a GPU computes with"
    )
    parser.add_argument(
        "--ranks", type=int, default=1, help="train one job in so many processes, each on a GPU"
    )
    asked = parser.parse_args()
    if asked.ranks > 1:
        from worker.engine.ranks.launch import launch  # noqa: PLC0415

        launch(asked.ranks, asked.commands, asked.reports, asked.kernels)
        return
    # Seconds of imports: by now a parent that dies takes this process with it. What they make is
    # there to stay, and looking for garbage in it takes a fifth of their time.
    gc.disable()
    from worker.engine.child import Engine  # noqa: PLC0415
    from worker.engine.kernels import chosen  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    chosen.choose(asked.kernels)
    Engine(asked.commands, asked.reports, asked.answer_share, alone=asked.alone).run()


def make_device_files() -> None:
    """CUDA has NVIDIA's program make them where they are not there. That takes rights of root which
    this process gives up.
    """
    if os.geteuid() == 0 and (program := shutil.which("nvidia-modprobe")):
        subprocess.run([program, "-u", "-c", "0"], check=False)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the thread that started it ends (prctl(2)).

    Raises:
        OSError: the kernel refuses.
        SystemExit: the parent died while we asked.

    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        raise SystemExit("the agent died while its engine started")


if __name__ == "__main__":
    main()
