"""`make drill`: a service is backed up while it trains, another one is made of the backup in an
empty place, and nothing may differ; the job that was running ends with the same adapter.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai._legacy_response import HttpxBinaryResponseContent
from openai.types.fine_tuning import FineTuningJob

from api.backup.manifest import read_manifest, read_stored
from tests.conftest import ROOT
from tests.e2e.up import start, succeeded, wait_for
from tests.factories import data_set, upload

FOLDER = ROOT / "build" / "drill"
# A lost worker is noticed soon, and the long job has checkpoints while it runs.
SOON = {"TUNERY_LEASE_SECONDS": "5", "TUNERY_CHECKPOINT_SECONDS": "2"}
LONG_EPOCHS = 40


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.environ.update(SOON | {"XDG_CONFIG_HOME": str(FOLDER / "config")})  # noqa: TID251
    service, backup, other = FOLDER / "service", FOLDER / "backup", FOLDER / "other"
    up = start(service)
    try:
        file = upload(up.client, data_set(12))
        upload(up.client, data_set(30), name="unused.jsonl")
        short = train(up.client, file.id, epochs=1, exports=[{"format": "merged"}])
        wait_for(up.client, short, succeeded)
        wait_for_exports(up.client, short)
        long = train(up.client, file.id, epochs=LONG_EPOCHS)
        wait_for_checkpoint(up.client, long)
        before = everything(up.client, running=long.id)
        began = time.monotonic()
        admin(service, "backup", backup)
        say(f"backed up in {time.monotonic() - began:.1f} s while a job was running")
        if up.client.fine_tuning.jobs.retrieve(long.id).status != "running":
            sys.exit("The long job ended before the backup did: raise LONG_EPOCHS.")
        admin(service, "check-backup", backup)
        # What happens after the backup is nothing to it: the files are deleted, the job goes on.
        wait_for(up.client, long, succeeded)
        undisturbed = weights(up.client, long.id)
        up.client.files.delete(file.id)
    finally:
        up.stop()
    other.mkdir()
    shutil.copy(service / "server.env", other)
    began = time.monotonic()
    admin(other, "restore", backup)
    say(f"restored in {time.monotonic() - began:.1f} s")
    found, files = damaged(backup, other / "storage")
    up = start(other)
    try:
        found += differences(before, everything(up.client, running=long.id))
        wait_for(up.client, long, succeeded)
        found += differences(undisturbed, weights(up.client, long.id))
    finally:
        up.stop()
    if found:
        sys.exit(f"{len(found)} differences:\n" + "\n".join(found))
    say(f"{len(before)} things of the API and {files} files in storage: 0 differences")
    say("the job that was running ended with the adapter of an undisturbed run")


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def train(client: OpenAI, file_id: str, *, epochs: int, **tunery: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        model="tunery-demo",
        training_file=file_id,
        seed=7,
        hyperparameters={"n_epochs": epochs, "batch_size": 4},
        extra_body=tunery,
    )


def wait_for_checkpoint(client: OpenAI, job: FineTuningJob) -> None:
    wait_for(client, job, lambda _: bool(client.fine_tuning.jobs.checkpoints.list(job.id).data))


def wait_for_exports(client: OpenAI, job: FineTuningJob) -> None:
    until = time.monotonic() + 300
    while not all(one["status"] == "succeeded" for one in exports(client, job.id)):
        if time.monotonic() > until:
            sys.exit(f"the export came to no end: {exports(client, job.id)}")
        time.sleep(0.5)


def exports(client: OpenAI, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(client, f"/fine_tuning/jobs/{job_id}/exports")["data"]
    return found


def get(client: OpenAI, path: str) -> dict[str, Any]:
    return dict(client.get(path, cast_to=dict[str, Any]))


def everything(client: OpenAI, *, running: str) -> dict[str, str]:
    """What the API shows of everything that has ended, and the digests of all bytes."""
    found = {}
    for file in client.files.list():
        content = client.files.content(file.id).read()
        found[file.id] = f"{file.model_dump_json()} {hashlib.sha256(content).hexdigest()}"
    for job in client.fine_tuning.jobs.list():
        if job.id == running:
            continue
        events = client.fine_tuning.jobs.list_events(job.id, limit=100)
        found[job.id] = job.model_dump_json()
        found[f"{job.id} events"] = "\n".join(event.model_dump_json() for event in events)
        found |= artifacts(client, job.id)
        for one in exports(client, job.id):
            path = f"/fine_tuning/jobs/{job.id}/exports/{one['id']}/files"
            found |= digests(client, path, one["files"])
    return found


def artifacts(client: OpenAI, job_id: str) -> dict[str, str]:
    """The digest of each of a job's files."""
    path = f"/fine_tuning/jobs/{job_id}/artifacts"
    return digests(client, path, get(client, path)["data"])


def weights(client: OpenAI, job_id: str) -> dict[str, str]:
    """Of its adapter alone: other files tell the times of their run."""
    found = artifacts(client, job_id)
    return {path: digest for path, digest in found.items() if "/adapter_" in path}


def digests(client: OpenAI, path: str, listed: list[dict[str, Any]]) -> dict[str, str]:
    found = {}
    for one in listed:
        url = f"{path}/{one['name']}"
        found[url] = hashlib.sha256(
            client.get(url, cast_to=HttpxBinaryResponseContent).read()
        ).hexdigest()
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{name}: {before.get(name)} / {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def damaged(backup: Path, storage: Path) -> tuple[list[str], int]:
    """Which files are not in that storage as they were backed up, and how many were."""
    listed = list(read_stored(backup / read_manifest(backup).stored.name))
    found = [
        f"{one.key} is missing or damaged"
        for one in listed
        if not (path := storage / one.key).is_file()
        or hashlib.sha256(path.read_bytes()).hexdigest() != one.sha256
    ]
    return found, len(listed)


def admin(data_dir: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "tunery.cli", "admin", "--data-dir", data_dir, *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
