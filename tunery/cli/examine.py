"""How a base model's family is trained, found out where the worker's packages are installed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tunery.base_model import read_config
from tunery.errors import InvalidRequest
from tunery.facts import Examined

NEEDED = ("torch", "transformers", "peft", "worker")
SECONDS = 600
LATER = "The first worker that trains on the model examines its family."


def examine(folder: Path, say: Callable[[str], None]) -> Examined | None:
    """What a child of this process finds on this machine's device, in some seconds. If it finds
    nothing, `say` is told why.

    Raises:
        InvalidRequest: the model cannot be trained, with the reason.

    """
    read_config(folder)  # what that refuses needs no child
    if not all(map(find_spec, NEEDED)):
        say(f"Not examined here, where torch, transformers or PEFT is not installed. {LATER}")
        return None
    ask = [sys.executable, "-m", "worker.engine.proof", str(folder)]
    try:
        done = subprocess.run(
            ask,
            # No model hub is asked.
            env=os.environ | {"HF_HUB_OFFLINE": "1"},  # noqa: TID251
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        say(f"Not examined here, as that took longer than {SECONDS} seconds. {LATER}")
        return None
    if done.returncode != 0:
        (*_, why) = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        say(f"Not examined here ({why}). {LATER}")
        return None
    answer = json.loads(done.stdout.splitlines()[-1])
    if "refused" in answer:
        raise InvalidRequest(answer["refused"])
    return Examined.model_validate(answer["examined"])
