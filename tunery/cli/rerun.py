"""`tunery rerun manifest.json`: a finished training once more, from what its manifest says."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

from tunery.cli.access import service
from tunery.cli.show import plain, print_json
from tunery.cli.watch import follow
from tunery.replay import request_of
from tunery.spec import DataFile, TrainingSpec

MANIFEST = "manifest.json"
WEIGHTS = ".safetensors"

Manifest = dict[str, Any]


def run(path: Path, data: list[Path], suffix: str | None = None, *, as_json: bool = False) -> None:
    """Exits with an error unless the weights are the same to the bit. `suffix` is for the new
    model's name: a manifest tells of a training, and not what its model was called. As JSON: the
    job, with `weights_are_the_same`.
    """
    console = plain(as_json=as_json)
    try:
        then = json.loads(path.read_text())
        spec = TrainingSpec.model_validate(then["spec"])
        asked, weights = request_of(spec, then["plan"]["quantization"]), weights_of(then)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        sys.exit(f"tunery: {path} is no manifest of a finished training that can be read: {error}")
    with service() as client:
        require_base(client, spec)
        body = asked | files_of(client, spec, data) | ({"suffix": suffix} if suffix else {})
        if suffix is None:
            console.print("The new model's name has no suffix; --suffix gives it one.")
        job_id = client.post("/fine_tuning/jobs", body=body, cast_to=dict[str, Any])["id"]
        console.print(f"Created job {job_id}")
        job = follow(client, job_id, console)
        if job.status != "succeeded":
            sys.exit(f"tunery: job {job_id} {job.status}: {job.error and job.error.message}")
        artifact = f"/fine_tuning/jobs/{job_id}/artifacts/{MANIFEST}"
        now = json.loads(client.get(artifact, cast_to=bytes))
    same = weights_of(now) == weights
    if as_json:
        print_json(job.model_dump(mode="json") | {"weights_are_the_same": same})
    console.print(f"{job.fine_tuned_model}")
    if not same:
        sys.exit(f"tunery: the weights differ. {reasons(then, now)}")
    console.print("The weights are the same to the bit.")


def require_base(client: OpenAI, spec: TrainingSpec) -> None:
    """The service has the base that was trained on, unchanged."""
    base = client.models.retrieve(spec.base_model)
    revision = (base.model_extra or {}).get("revision")
    if revision != spec.base_revision:
        sys.exit(
            f"tunery: {spec.base_model} is there at revision {revision}, the training was on "
            f"{spec.base_revision}. Register that one (`tunery models add --revision`)."
        )


def files_of(client: OpenAI, spec: TrainingSpec, data: list[Path]) -> dict[str, str]:
    """The ids of files with the very bytes that were trained on: the service's, or from `data`."""
    wanted = {"training_file": spec.training_file, "validation_file": spec.validation_file}
    return {name: file_id(client, file, data) for name, file in wanted.items() if file}


def file_id(client: OpenAI, wanted: DataFile, data: list[Path]) -> str:
    for file in client.files.list(purpose="fine-tune"):
        ours = file.model_extra or {}
        if (ours.get("sha256"), ours.get("columns")) == (wanted.sha256, wanted.columns):
            return file.id
    for path in data:
        if hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
            named = {"columns": wanted.columns} if wanted.columns else None
            return client.files.create(file=path, purpose="fine-tune", extra_body=named).id
    sys.exit(
        f"tunery: the service no longer has the data of {wanted.id} (sha256 {wanted.sha256}). Give "
        "the file with --data."
    )


def weights_of(manifest: Manifest) -> dict[str, str]:
    """The SHA-256 of each file with weights."""
    return {
        file["name"]: file["sha256"] for file in manifest["files"] if file["name"].endswith(WEIGHTS)
    }


def reasons(then: Manifest, now: Manifest) -> str:
    """What was different, that the last bits depend on."""
    found = [
        f"{name}: {then.get(name)} then, {now[name]} now"
        for name in ("device", "plan", "libraries")
        if then.get(name) != now[name]
    ]
    same = "The machine and its libraries say that they are the same."
    return "; ".join(found) or f"{same} On a GPU sums are not taken in one order."
