"""A file's own names for the fields of a row: said with its upload, or by its first job."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types import FileObject

from api.db.session import Database
from api.janitor import Janitor
from api.tables import Job
from tests.conftest import Served
from tests.factories import create_job, join_checks, upload

CONTENT = b"\n".join(
    json.dumps({"asked": f"What is {n}?", "said": f"It is {n}.", "by": "x"}).encode()
    for n in range(12)
)
COLUMNS = {"prompt": "asked", "completion": "said"}


def sent_with(server: Served, columns: dict[str, str]) -> FileObject:
    """As the SDK sends it: `columns[prompt]`."""
    return server.client.files.create(
        file=("rows.jsonl", CONTENT), purpose="fine-tune", extra_body={"columns": columns}
    )


def spec_of(db: Database, job_id: str) -> dict[str, Any]:
    with db.as_control() as tx:
        return tx.get_one(Job, job_id).spec or {}


def test_a_file_is_uploaded_with_its_columns_and_trained_on_by_them(
    server: Served, db: Database
) -> None:
    file = sent_with(server, COLUMNS)
    assert (file.status, (file.model_extra or {})["columns"]) == ("processed", COLUMNS)
    report = server.http().get(f"/v1/files/{file.id}/report").json()
    assert (report["columns"], report["formats"]) == (COLUMNS, {"completion": 12})
    assert report["left_out"] == {"by": 12}
    job = create_job(server.client, file.id)
    assert spec_of(db, job.id)["training_file"]["columns"] == COLUMNS
    as_json = server.http().post(
        "/v1/files",
        files={"file": ("rows.jsonl", CONTENT)},
        data={"purpose": "fine-tune", "columns": json.dumps(COLUMNS)},
    )
    assert as_json.json()["columns"] == COLUMNS


def test_columns_come_with_an_upload_in_parts(server: Served) -> None:
    begun = server.http().post(
        "/v1/uploads",
        json={
            "filename": "rows.jsonl",
            "purpose": "fine-tune",
            "bytes": len(CONTENT),
            "mime_type": "text/jsonl",
            "columns": COLUMNS,
        },
    )
    upload_id = begun.json()["id"]
    part = server.client.uploads.parts.create(upload_id, data=CONTENT)
    done = server.client.uploads.complete(upload_id, part_ids=[part.id])
    assert done.file
    assert (done.file.status, (done.file.model_extra or {})["columns"]) == ("processed", COLUMNS)


def test_columns_that_make_no_row_or_that_the_file_lacks_are_refused(server: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="no field of a row here") as refused:
        sent_with(server, {"promt": "asked"})
    assert refused.value.param == "columns"
    file = sent_with(server, {"prompt": "question", "completion": "said"})
    assert file.status == "error"
    assert "it has `asked`, `said` and `by`" in (file.status_details or "")


def test_a_job_names_the_columns_of_a_file_that_could_not_be_read(
    server: Served, db: Database
) -> None:
    file = upload(server.client, CONTENT)
    assert file.status == "error"
    asked = {"training": {"columns": COLUMNS}}
    job = create_job(server.client, file.id, extra_body=asked)
    assert job.status == "validating_files"
    janitor = Janitor(server.settings)
    janitor.check_files()
    join_checks(janitor)
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    assert spec_of(db, job.id)["training_file"]["columns"] == COLUMNS
    create_job(server.client, file.id, extra_body=asked)
    other = {"training": {"columns": {"text": "said"}}}
    with pytest.raises(openai.BadRequestError, match="upload it again with `columns`") as refused:
        create_job(server.client, file.id, extra_body=other)
    assert refused.value.param == "training.columns"
    with pytest.raises(openai.BadRequestError, match="is read as it is"):
        create_job(server.client, upload(server.client).id, extra_body=asked)
    janitor.db.close()


def test_a_check_by_other_columns_than_the_file_has_by_now_counts_for_nothing(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(check_at_once_bytes=1)
    file = upload(server.client, CONTENT)
    janitor = Janitor(server.settings)
    with db.as_control() as tx:
        begun = janitor.next_unchecked(tx)
    assert begun
    job = create_job(server.client, file.id, extra_body={"training": {"columns": COLUMNS}})
    janitor.check(begun)
    assert server.client.files.retrieve(file.id).status == "uploaded"
    janitor.check_files()
    join_checks(janitor)
    assert server.client.files.retrieve(file.id).status == "processed"
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    janitor.db.close()
