"""An attempt as the engine is told it, with its files fetched."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tunery import messages
from tunery.errors import BytesDamaged, BytesGone
from tunery.exports import is_whole
from tunery.facts import FileLink
from worker import protocol
from worker.client import ApiRefused
from worker.outbox import Outbox

Fetch = Callable[[FileLink, Path], Path]

# What the API has proven of bytes in storage, by the code that it says so with.
LOST = {BytesGone.code: "gone", BytesDamaged.code: "damaged"}


class BytesLost(Exception):
    """What the job needs is gone from storage, or damaged there. `code` says what and how, such as
    training_file_gone.
    """

    def __init__(self, what: str, name: str, how: str) -> None:
        super().__init__(
            f"{name}, the {what.replace('_', ' ')} of this job, is {how} in the service's storage. "
            "Store it again, or have an operator restore it, and create the job again."
        )
        self.code = f"{what}_{how}"


def needed(what: str, fetch: Fetch, link: FileLink | None, into: Path) -> Path | None:
    """Fetches a file that nothing can stand in for, if it is named. Raises `BytesLost`."""
    if link is None:
        return None
    try:
        return fetch(link, into)
    except ApiRefused as error:
        if error.code in LOST:
            raise BytesLost(what, link.name, LOST[error.code]) from error
        raise


def command_of(
    lease: messages.Lease,
    folder: Path,
    fetch: Fetch,
    checkpoint: Path | None,
    *,
    base: Path,
    checkpoint_seconds: float,
    cache: Path,
) -> protocol.Train | protocol.Export:
    """Raises `BytesLost`, and whatever `fetch` does."""
    training, validation = lease.training_file, lease.validation_file
    adapter = folder / "adapter" if lease.adapter else None
    if adapter and lease.adapter:
        adapter.mkdir()
        for file in lease.adapter.files:
            needed("model", fetch, file, adapter)
    work = folder / "work"
    work.mkdir()
    if lease.export and adapter:
        if not is_whole(lease.export.options):  # nothing is measured on rows
            training = validation = None
        elif validation:
            training = None
        return protocol.Export(
            job_id=lease.job_id,
            token=lease.token,
            project_id=lease.project_id,
            spec=lease.spec,
            plan=lease.export.plan,
            base_folder=base,
            base_files=lease.base_model.files,
            adapter=adapter,
            options=lease.export.options,
            training_file=needed("training_file", fetch, training, folder),
            validation_file=needed("validation_file", fetch, validation, folder),
            folder=work,
            cache=cache,
        )
    training_file = needed("training_file", fetch, training, folder)
    assert training_file  # noqa: S101  (a training has its file)
    return protocol.Train(
        job_id=lease.job_id,
        token=lease.token,
        project_id=lease.project_id,
        spec=lease.spec,
        base_folder=base,
        base_files=lease.base_model.files,
        training_file=training_file,
        validation_file=needed("validation_file", fetch, validation, folder),
        adapter=adapter,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        folder=work,
        cache=cache,
    )


def whole_checkpoints(
    lease: messages.Lease, folder: Path, fetch: Fetch, outbox: Outbox
) -> Iterator[Path]:
    """The job's checkpoints as they lie in storage, newest first, without the damaged ones."""
    for link in filter(None, [lease.checkpoint, *lease.earlier_checkpoints]):
        checkpoint = folder / f"checkpoint-{link.step}"
        checkpoint.mkdir()
        try:
            for file in link.files:
                fetch(file, checkpoint)
        except ApiRefused as error:
            message = f"The checkpoint of step {link.step} is damaged: {error}"
            outbox.add(level="warn", message=message)
        else:
            yield checkpoint
