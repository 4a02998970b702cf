"""`python -m worker.engine.proof FOLDER`: what the examination of a base model's family finds on
this machine's device. A child of the command that registers it, which reads the last line: the
facts, or why the model is refused. What says nothing of the model ends it with an error.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

from worker.engine.device import device
from worker.engine.errors import BaseRefused
from worker.engine.model.base import read_folder
from worker.engine.proof.family import examined, verdict_on


def main() -> None:
    # A device that has no room even for this is no fault of the model.
    torch.zeros(1, device=device())
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as copies:
        try:
            verdict = verdict_on(read_folder(folder, "", Path(copies)))
        except BaseRefused as error:
            answer: dict[str, object] = {"refused": str(error)}
        else:
            answer = {"examined": examined(verdict).model_dump()}
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
