import io
import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import Engine, inspect, text

from api.db.session import Database
from api.files import files
from api.janitor import Janitor
from api.jobs import intake
from tests.answering_worker import LOCKS_WAITED_FOR, wait_until
from tests.conftest import Served
from tests.factories import chat, create_job, data_set, join_checks, upload


def test_an_uploaded_data_set_is_checked_before_the_answer(server: Served) -> None:
    file = upload(server.client, data_set(12))
    assert file.status == "processed"
    assert (file.object, file.purpose, file.filename) == ("file", "fine-tune", "data.jsonl")
    assert file.bytes == len(data_set(12))
    found = server.client.files.retrieve(file.id)
    assert found.model_dump() == file.model_dump()


def test_a_file_tells_its_rows_their_format_and_its_jobs_which_are_found_by_it(
    server: Served,
) -> None:
    used, other, faulty = upload(server.client), upload(server.client), upload(server.client, b"{")
    trained = create_job(server.client, used.id, validation_file=other.id)
    create_job(server.client, other.id)
    http = server.http()
    listed = {one["id"]: one["tunery"] for one in http.get("/v1/files").json()["data"]}
    assert listed == {
        used.id: {"rows": 12, "format": "chat", "jobs": 1},
        other.id: {"rows": 12, "format": "chat", "jobs": 2},
        faulty.id: {"rows": None, "format": None, "jobs": 0},
    }
    assert http.get(f"/v1/files/{other.id}").json()["tunery"] == listed[other.id]
    jobs = http.get("/v1/fine_tuning/jobs", params={"file": used.id}).json()["data"]
    assert [job["id"] for job in jobs] == [trained.id]


def test_a_file_with_faults_is_stored_as_error_and_names_line_field_reason_and_mend(
    server: Served,
) -> None:
    lines = [chat(), '{"messages": [{"role": "usr", "content": "Hi"}]}', "{"]
    file = upload(server.client, "\n".join(lines).encode())
    assert file.status == "error"
    assert file.status_details == (
        "line 2: messages[0].role: 'usr' is not a role. Use one of system, user, "
        "assistant, tool. (1 more fault; see the report)"
    )
    report = server.http().get(f"/v1/files/{file.id}/report").json()
    assert [fault["line"] for fault in report["faults"]] == [2, 3]
    assert report["rows"] == 1


def test_a_large_file_is_checked_by_the_janitor_and_jobs_wait_for_it(
    serve_with: Callable[..., Served],
) -> None:
    server = serve_with(check_at_once_bytes=10)
    client, janitor = server.client, Janitor(server.settings)
    good, bad = upload(client), upload(client, b"{" * 20)
    assert (good.status, bad.status) == ("uploaded", "uploaded")
    waiting = create_job(client, good.id)
    doomed = create_job(client, bad.id)
    assert (waiting.status, doomed.status) == ("validating_files", "validating_files")
    for _ in range(2):
        janitor.sweep()
        join_checks(janitor)
    janitor.db.close()
    assert client.files.retrieve(good.id).status == "processed"
    assert client.fine_tuning.jobs.retrieve(waiting.id).status == "queued"
    failed = client.fine_tuning.jobs.retrieve(doomed.id)
    assert failed.status == "failed"
    assert failed.error
    assert failed.error.code == "invalid_training_file"
    assert failed.error.param == "training_file"


@pytest.mark.parametrize("first", ["file", "purpose"])
def test_the_parts_of_an_upload_come_in_any_order(server: Served, first: str) -> None:
    parts = {
        "file": ("a.jsonl", data_set(3), "application/octet-stream"),
        "purpose": (None, b"fine-tune", None),
    }
    order = sorted(parts, key=lambda name: name != first)
    answer = server.http().post("/v1/files", files=[(name, parts[name]) for name in order])
    assert answer.json()["status"] == "processed"


@pytest.mark.parametrize(
    ("parts", "param", "says"),
    [
        ({"purpose": (None, b"fine-tune")}, "file", "no file"),
        ({"file": ("a", b"{}")}, "purpose", "no purpose"),
        ({"file": ("a", b"{}"), "purpose": (None, b"batch")}, "purpose", "not offered"),
        ({"file": ("a", b"{}"), "purpose": (None, b"tune")}, "purpose", "not a purpose"),
        ({"file": ("a", b""), "purpose": (None, b"fine-tune")}, "file", "empty"),
        (
            {"file": ("a", b"{}"), "purpose": (None, b"fine-tune"), "x": (None, b"1")},
            "x",
            "remove it",
        ),
    ],
)
def test_an_upload_that_cannot_be_used_is_refused_and_leaves_nothing(
    shared_server: Served, parts: dict[str, tuple[str | None, bytes]], param: str, says: str
) -> None:
    answer = shared_server.http().post("/v1/files", files=list(parts.items()))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert_nothing_stored(shared_server)


def test_an_upload_cut_off_in_the_middle_leaves_nothing(server: Served) -> None:
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"mess'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = server.http().post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert "ends before" in answer.json()["error"]["message"]
    assert_nothing_stored(server)


def test_an_odd_boundary_is_refused(server: Served) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={'b' * 5000}"}
    answer = server.http().post("/v1/files", content=b"--b", headers=headers)
    assert answer.status_code == 400


def test_a_check_that_takes_too_long_is_left_to_the_janitor(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.files.routes.CHECK_SECONDS", 0.001)
    assert upload(server.client).status == "uploaded"


def test_a_file_whose_check_is_killed_again_and_again_ends_as_unreadable(
    serve_with: Callable[..., Served], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_with(check_at_once_bytes=1)
    monkeypatch.setattr(files, "check_in_subprocess", lambda *_: None)
    file, janitor = upload(server.client), Janitor(server.settings)
    for check in range(1, files.MOST_CHECKS + 1):
        assert server.client.files.retrieve(file.id).status == "uploaded"
        janitor.sweep()
        join_checks(janitor)
        janitor.sweep()
        assert check == files.MOST_CHECKS or not janitor.checkers
        with db.as_control() as tx:
            tx.execute(text("UPDATE file SET checking_until = NULL"))
    janitor.db.close()
    refused = server.client.files.retrieve(file.id)
    assert refused.status == "error"
    assert "Split the file" in (refused.status_details or "")


def test_two_janitors_that_finish_a_jobs_two_files_at_once_still_queue_it(
    serve_with: Callable[..., Served], db: Database
) -> None:
    server = serve_with(check_at_once_bytes=1)
    training, validation = upload(server.client), upload(server.client)
    job = create_job(server.client, training.id, validation_file=validation.id)
    report = {
        "ok": True,
        "rows": 12,
        "formats": {"chat": 12},
        "summary": None,
        "duplicates": {"rows": 0},
    }
    with ThreadPoolExecutor(1) as other:
        with db.as_control() as tx:
            intake.finish_check(tx, training.id, report)
            second = other.submit(finish_check, db, validation.id, report)
            wait_until(lambda: bool(tx.scalar(text(LOCKS_WAITED_FOR))))
        second.result()
    assert server.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def finish_check(db: Database, file_id: str, report: dict[str, Any]) -> None:
    with db.as_control() as tx:
        intake.finish_check(tx, file_id, report)


def test_a_file_over_the_limit_is_refused_while_it_arrives(
    serve_with: Callable[..., Served],
) -> None:
    server = serve_with(max_file_bytes=100)
    with pytest.raises(openai.APIStatusError) as refused:
        upload(server.client, data_set(12))
    assert refused.value.status_code == 413
    assert_nothing_stored(server)


def assert_nothing_stored(server: Served) -> None:
    assert server.client.files.list().data == []
    stored = [path for path in server.settings.folder.rglob("[!.]*") if path.is_file()]
    assert stored == []


def test_an_upload_is_streamed_to_disk(server: Served) -> None:
    row = chat(answer="x" * 100_000).encode() + b"\n"
    content = io.BytesIO(row * 400)  # 40 MB
    tracemalloc.start()
    try:
        file = server.client.files.create(file=("big.jsonl", content), purpose="fine-tune")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.bytes == 400 * len(row)
    # The client in this process holds the body once; the server adds chunks only.
    assert peak < 1.6 * file.bytes


def test_content_comes_back_as_it_was_sent_whole_or_in_parts(server: Served) -> None:
    content = data_set(20)
    file = upload(server.client, content)
    assert server.client.files.content(file.id).read() == content
    http = server.http()
    part = http.get(f"/v1/files/{file.id}/content", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    for odd in ("bytes=999999-", "bytes=5-2", "lines=1-2"):
        answer = http.get(f"/v1/files/{file.id}/content", headers={"range": odd})
        assert answer.json()["error"]["type"] == "invalid_request_error"
    for again in (part.headers["etag"], f'"x", {part.headers["etag"]}'):
        headers = {"if-none-match": again}
        assert http.get(f"/v1/files/{file.id}/content", headers=headers).status_code == 304
    whole = http.get(f"/v1/files/{file.id}/content", headers={"if-none-match": '"x"'})
    assert whole.headers["content-length"] == str(len(content))


def test_a_client_that_leaves_in_the_middle_of_a_file_is_no_fault_of_the_server(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    content = chat(answer="x" * 8_000_000).encode()  # more than the sockets hold
    file = upload(server.client, content)
    with server.http().stream("GET", f"/v1/files/{file.id}/content") as answer:
        assert next(answer.iter_raw())
    assert server.client.files.content(file.id).read() == content
    assert not caplog.records


def test_files_are_listed_newest_first_in_pages(server: Served, db: Database) -> None:
    client = server.client
    made = [upload(client, data_set(2), f"{n}.jsonl").id for n in range(5)]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(order="asc")] == made
    assert [file.id for file in client.files.list(purpose="batch")] == []
    with pytest.raises(openai.BadRequestError, match="to continue after"):
        client.files.list(after="file-unknown")
    with db.as_control() as tx:
        rows = files.list_newest(tx, limit=9, after=None, purpose=None, ascending=True)
        assert all("report" in inspect(file).unloaded for file in rows), "they may be gigabytes"


def test_a_deleted_file_is_gone_and_its_page_cursor_still_works(server: Served) -> None:
    client = server.client
    old, new = upload(client), upload(client)
    assert client.files.delete(new.id).deleted
    assert not any((server.settings.folder / "files").glob(f"*{new.id}*"))
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(new.id)
    with pytest.raises(openai.NotFoundError):
        create_job(client, new.id)
    assert [file.id for file in client.files.list(after=new.id)] == [old.id]
    assert len(list((server.settings.folder / "files").iterdir())) == 1


def test_a_file_that_a_job_needs_cannot_be_deleted(server: Served) -> None:
    client = server.client
    job = create_job(client)
    with pytest.raises(openai.ConflictError, match=job.id) as refused:
        client.files.delete(job.training_file)
    assert refused.value.response.headers["x-should-retry"] == "false"
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(job.training_file).deleted


EXPIRY: Any = {"anchor": "created_at", "seconds": 3600}


def test_a_file_over_its_time_is_as_good_as_deleted_and_the_janitor_deletes_it(
    server: Served, owner: Engine
) -> None:
    client, janitor = server.client, Janitor(server.settings)
    content = ("a.jsonl", data_set())
    file = client.files.create(file=content, purpose="fine-tune", expires_after=EXPIRY)
    needed = client.files.create(file=content, purpose="fine-tune", expires_after=EXPIRY)
    assert file.expires_at == file.created_at + 3600
    assert upload(client).expires_at is None
    job = create_job(client, needed.id)
    with owner.begin() as connection:
        connection.execute(text("UPDATE file SET expires_at = now() WHERE expires_at > now()"))
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)
    with pytest.raises(openai.NotFoundError):
        create_job(client, file.id)
    assert len(client.files.list().data) == 2
    stored = server.settings.folder / "files"
    assert len(list(stored.iterdir())) == 3, "nobody was there to delete it"
    for _ in range(2):
        janitor.expire()
        assert len(list(stored.iterdir())) == 2
        assert client.files.content(needed.id).read() == data_set(), "its job needs it"
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(needed.id)
    janitor.expire()
    janitor.db.close()
    assert len(list(stored.iterdir())) == 1


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"anchor": "created_at"}, "expires_after.seconds", "required"),
        ({"anchor": "created_at", "seconds": "3599"}, "expires_after.seconds", "3600"),
        ({"anchor": "created_at", "seconds": "1h"}, "expires_after.seconds", "integer"),
        ({"anchor": "last_used_at", "seconds": "3600"}, "expires_after.anchor", "created_at"),
    ],
)
def test_a_time_to_live_that_cannot_be_is_refused(
    server: Served, fields: dict[str, str], param: str, says: str
) -> None:
    data = {"purpose": "fine-tune"} | {f"expires_after[{k}]": v for k, v in fields.items()}
    answer = server.http().post("/v1/files", data=data, files={"file": ("a", data_set(2))})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert_nothing_stored(server)


def test_a_hostile_file_name_is_only_a_name(server: Served) -> None:
    name = "../../etc/passwd"
    parts = {"file": (name, data_set(2)), "purpose": (None, b"fine-tune")}
    answer = server.http().post("/v1/files", files=list(parts.items()))
    assert answer.json()["filename"] == name
    stored = [path for path in server.settings.folder.rglob("[!.]*") if path.is_file()]
    assert [path.parent.name for path in stored] == ["files"]
    content = server.client.files.content(answer.json()["id"])
    assert content.response.headers["content-disposition"] == (
        'attachment; filename=".._.._etc_passwd"'
    )


def test_text_that_is_not_a_form_is_refused(server: Served) -> None:
    answer = server.http().post("/v1/files", json={"file": "x"})
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.json()["error"]["message"]


def test_json_stays_an_envelope(server: Served) -> None:
    answer = httpx.get(f"{server.url}/v1/files", timeout=60)
    assert answer.status_code == 401
    assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}
