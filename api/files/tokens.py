"""The token report on a data set for a base model, made while somebody waits for it."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
from anyio import fail_after, run_process, to_thread

from api.storage.kept import tokenizer_of
from api.storage.storage import Storage
from api.tables import BaseModel, File
from tunery.data.tokens import SAMPLE_BYTES, SAMPLE_SECONDS
from tunery.errors import Conflict, InvalidRequest
from tunery.facts import FileFacts
from tunery.plan.shape import ENCODERS

COUNT_SECONDS = 10
CHAT_TEMPLATE = "training.chat_template"

log = logging.getLogger(__name__)


async def count(
    storage: Storage,
    file: File,
    report: dict[str, Any],
    base: BaseModel,
    max_length: int | None,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    seconds: float = SAMPLE_SECONDS,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """What `tunery.data.tokens` says of a file whose check found no fault, or of a sample of it. It
    runs in a process with limits on memory and time, because the chat template is a program.

    Raises:
        InvalidRequest: rows of `max_length` do not fit the base, or the template is none.
        Conflict: the tokenizer is not here, or the limits were not enough.
        StorageAway, BytesGone, BytesDamaged: the file cannot be read, now or at all.

    """
    if max_length is not None and max_length > base.context_length:
        raise InvalidRequest(
            f"{base.id} takes {base.context_length} tokens. Set max_length to that or less.",
            param="max_length",
        )
    folder, needed = tokenizer_of(base)
    tokenizer = await to_thread.run_sync(tokenizer_here, storage, folder, needed)
    if tokenizer is None:
        raise Conflict(
            f"The tokenizer of {base.id} is not here, which counting tokens needs. An operator "
            f"sends it with `tunery models add FOLDER --name {base.id}`.",
            code="tokenizer_missing",
        )
    sizes = (max_length or base.context_length, report["rows"], report["text_bytes"])
    facts = (
        *sizes,
        int(base.architecture in ENCODERS),
        sample_bytes,
        seconds,
        chat_template or "",
        orjson.dumps(file.columns).decode(),
    )
    path = await to_thread.run_sync(storage.local, file.key, file.sha256)
    found = await in_subprocess(path, file.filename, tokenizer, facts)
    if broken := found.get("broken"):
        raise InvalidRequest(f"{broken[0].upper()}{broken[1:]}.", param=CHAT_TEMPLATE)
    return {"model": base.id, **found}


def tokenizer_here(storage: Storage, folder: str, needed: list[FileFacts]) -> Path | None:
    """The folder of its files on this machine. None: storage lacks one."""
    keys = {f"{folder}/{each.name}": each for each in needed}
    if not keys or not all(storage.has(key, each.bytes) for key, each in keys.items()):
        return None
    (found,) = {storage.local(key, each.sha256).parent for key, each in keys.items()}
    return found


async def in_subprocess(
    path: Path, filename: str, folder: Path, facts: tuple[float | str, ...]
) -> dict[str, Any]:
    try:
        with fail_after(COUNT_SECONDS):
            count = await run_process(
                [
                    *(sys.executable, "-m", "tunery.data.tokens"),
                    *(str(path), filename, str(folder), *map(str, facts)),
                ],
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                check=False,
            )
    except TimeoutError:
        raise over_limits() from None
    if count.returncode:
        said = count.stderr.decode(errors="replace")
        log.error("counting %s ended with %d: %s", path.name, count.returncode, said)
        raise over_limits()
    found: dict[str, Any] = orjson.loads(count.stdout)
    return found


def over_limits() -> Conflict:
    return Conflict(
        f"The tokens could not be counted within {COUNT_SECONDS} seconds and the memory there is "
        "for it: the base model's chat template takes too long, or its tokenizer is too large. "
        "`tunery validate FILE --model FOLDER` counts without such limits.",
        code="tokens_not_counted",
    )
