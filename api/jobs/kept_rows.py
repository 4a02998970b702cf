"""Whether a base model's chat template trains a file's rows as they are: asked before a job exists,
so that nobody waits for a worker to say no.
"""

from collections import OrderedDict
from typing import Any

from api.files import files, tokens
from api.http.dependencies import Server
from api.jobs.named import named
from api.jobs.requests import CreateJob
from api.models import tuned
from api.models.templates import chosen
from api.models.tuned import Tuned
from api.tables import BaseModel, File
from api.tenants.places import in_thread
from tunery.data.incomplete import Incomplete, Lines
from tunery.data.template import in_pieces
from tunery.errors import (
    BytesDamaged,
    BytesGone,
    Conflict,
    InvalidRequest,
    RateLimited,
    StorageAway,
    TuneryError,
)
from tunery.spec import TrainingSpec

# A person waits for the answer: a sample is enough to see that a template does not fit.
SAMPLE_BYTES = 512 << 10
SAMPLE_SECONDS = 3
MOST_LOST = TrainingSpec.model_fields["max_lost_share"].default

# Of a report; the preview and the histogram are long.
REMEMBERED = (
    *("rows", "measured_rows", "sampled", "max_length", "incomplete_rows"),
    *("lost", "nothing_to_train", "refused", "in_pieces"),
)
# What was found of a file for a base: neither changes. The newest so many are remembered.
MOST_KNOWN = 1_000
known: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()


async def require(server: Server, project_id: str, asked: CreateJob) -> list[str]:
    """Raises `InvalidRequest` if more rows of a file than `max_lost_share` would be left out, or
    trained without something that they say. Returns what the job's owner is to be warned of.
    """
    warnings: dict[str, None] = {}
    most = asked.training.max_lost_share
    most = MOST_LOST if most is None else most
    if most == 1 or asked.method_type == "masked_lm":
        return []
    base, own, data = await in_thread(look_up, server, project_id, asked)
    for param, file in data.items():
        assert base  # noqa: S101 - else there are no files
        found = await counted(server, project_id, file, base, own, asked)
        if found and found["in_pieces"]:
            warnings[in_pieces(found["in_pieces"])] = None
        if found and found["incomplete_rows"] > most * found["measured_rows"]:
            raise InvalidRequest(in_words(param, found, most), param=param, code="rows_lost")
    return list(warnings)


async def counted(
    server: Server,
    project_id: str,
    file: File,
    base: BaseModel,
    own: str | None,
    asked: CreateJob,
) -> dict[str, Any] | None:
    """None where the tokens cannot be counted here and now: the worker will say."""
    assert file.report  # noqa: S101 - it was checked
    max_length = named(asked).max_length
    template = chosen(base, file.report["formats"], asked.training.chat_template, own).template
    columns = tuple((file.columns or {}).items())
    of_file = (project_id, file.sha256, file.filename, columns)
    name = (*of_file, base.id, base.revision, max_length, template)
    if name not in known:
        try:
            async with server.reports.place(project_id):
                found = await tokens.count(
                    server.storage,
                    file,
                    file.report,
                    base,
                    max_length,
                    sample_bytes=SAMPLE_BYTES,
                    seconds=SAMPLE_SECONDS,
                    chat_template=template,
                )
            known[name] = {each: found[each] for each in REMEMBERED}
        except (BytesDamaged, BytesGone, Conflict, RateLimited, StorageAway):
            return None
        except InvalidRequest as error:
            if error.param == tokens.CHAT_TEMPLATE:
                raise
            return None
        while len(known) > MOST_KNOWN:
            known.popitem(last=False)
    return known[name]


def look_up(
    server: Server, project_id: str, asked: CreateJob
) -> tuple[BaseModel | None, str | None, dict[str, File]]:
    """The base, the template of a tuned model that is gone on from, and the files that are checked.
    None at all of a request that cannot be looked up: the creation says why.
    """
    asked_for = {"training_file": asked.training_file, "validation_file": asked.validation_file}
    try:
        with server.db.as_project(project_id) as tx:
            model = tuned.get(tx, asked.model)
            own = None
            if isinstance(model, Tuned):
                own = (model.job.spec or {}).get("chat_template")
                model = tx.get_one(BaseModel, model.job.base_model_id)
            data = {
                param: files.get(tx, file_id, param=param)
                for param, file_id in asked_for.items()
                if file_id
            }
    except TuneryError:
        return None, None, {}
    return model, own, {param: f for param, f in data.items() if f.report and f.report["ok"]}


def in_words(param: str, found: dict[str, Any], most: float) -> str:
    whose = f"the {param.replace('_', ' ')}"
    if found["sampled"]:
        whose = f"{whose} (a sample of its {found['rows']:,})"
    refused = found["refused"]["lines"]
    incomplete = Incomplete(
        rows=found["measured_rows"],
        max_length=found["max_length"],
        lost={words: Lines.reported(lost) for words, lost in found["lost"].items()},
        dropped=Lines.reported(found["nothing_to_train"]),
        refused=Lines.reported(found["refused"]),
        why=refused[0]["reason"] if refused else "",
    )
    return incomplete.refusal(found["incomplete_rows"], whose, most)
