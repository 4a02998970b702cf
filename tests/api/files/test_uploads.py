"""Files in parts, through the unmodified SDK."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Upload
from sqlalchemy import Engine, text

from api.admin import create_key
from api.db.session import Database
from api.files import files, uploads
from api.janitor import Janitor
from tests.conftest import Served
from tests.factories import create_job, data_set, join_checks

CONTENT = data_set(12)
HALF = len(CONTENT) // 2
KIND: Any = {"filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}


def begin(server: Served, **changed: Any) -> Upload:
    return server.client.uploads.create(**{"bytes": len(CONTENT), **KIND, **changed})


def send(server: Served, upload: Upload, data: bytes) -> str:
    return server.client.uploads.parts.create(upload.id, data=data).id


def halves(server: Served, upload: Upload) -> list[str]:
    return [send(server, upload, data) for data in (CONTENT[:HALF], CONTENT[HALF:])]


def stored(server: Served) -> list[str]:
    """The folders in which files lie."""
    paths = server.settings.folder.rglob("[!.]*")
    return [path.parent.name for path in paths if path.is_file()]


def test_the_sdk_sends_a_file_in_parts_and_a_job_trains_on_it(
    server: Served, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)
    done = server.client.uploads.upload_file_chunked(
        file=path,
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=100,  # within lines
        md5=md5(CONTENT, usedforsecurity=False).hexdigest(),
    )
    assert (done.status, done.bytes, done.filename) == ("completed", len(CONTENT), "rows.jsonl")
    assert done.expires_at == done.created_at + 3600
    file = done.file
    assert file
    assert file.status == "processed"
    listed = server.client.files.retrieve(file.id).to_dict()
    assert file.to_dict() == listed
    assert server.client.files.content(file.id).read() == CONTENT
    assert stored(server) == ["files"]
    assert create_job(server.client, file.id).status == "queued"


def test_a_part_may_have_its_whole_limit_in_data_and_no_byte_more(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert uploads.MAX_PART_BYTES == 67_108_864
    monkeypatch.setattr(uploads, "MAX_PART_BYTES", 100)
    upload = begin(server)
    send(server, upload, CONTENT[:100])
    with pytest.raises(openai.APIStatusError, match="part is larger than the 100") as refused:
        send(server, upload, CONTENT[:101])
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="no bytes"):
        send(server, upload, b"")
    assert stored(server) == ["parts"]


def test_an_upload_takes_no_more_than_it_may_need(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(server, bytes=10)
    for _ in range(3):
        send(server, upload, b"0123456789")
    with pytest.raises(openai.BadRequestError, match="announced 10"):
        send(server, upload, b"0")
    monkeypatch.setattr(uploads, "MOST_PARTS", 3)
    with pytest.raises(openai.BadRequestError, match="at most 3 parts"):
        send(server, upload, b"0")


@pytest.mark.parametrize(
    ("changed", "param", "says"),
    [
        ({"bytes": 8 * 1024**3 + 1}, "bytes", "8,589,934,592"),
        ({"bytes": 1 << 62}, "bytes", "8,589,934,592"),  # over the project's quota too
        ({"bytes": 1 << 64}, "bytes", "less than"),
        ({"bytes": 0}, "bytes", "greater than or equal to 1"),
        ({"purpose": "assistants"}, "purpose", "not offered here"),
        ({"filename": "a\x00"}, "filename", "NUL"),
        (
            {"expires_after": {"anchor": "created_at", "seconds": 1}},
            "expires_after.seconds",
            "3600",
        ),
    ],
)
def test_an_upload_that_cannot_come_to_a_file_is_refused_at_once(
    server: Served, changed: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        begin(server, **changed)
    assert refused.value.param == param


def test_what_is_wrong_with_a_completion_is_named_and_may_be_mended(
    server: Served, db: Database
) -> None:
    upload = begin(server)
    second, first = send(server, upload, CONTENT[HALF:]), send(server, upload, CONTENT[:HALF])
    other = send(server, begin(server), b"other")
    found = md5(CONTENT, usedforsecurity=False).hexdigest()
    complete = server.client.uploads.complete
    for parts, checksum, param, says in (
        ([first, "part_x"], None, "part_ids.1", "'part_x' is none of this"),
        ([first, other], None, "part_ids.1", "none of this"),
        ([first, second, first], None, "part_ids.2", "named twice"),
        ([first], None, "part_ids", f"hold {HALF} bytes.*announced {len(CONTENT):,}"),
        ([first, second], "0" * 32, "md5", f"MD5 {found}, not 0000"),
    ):
        with pytest.raises(openai.BadRequestError, match=says) as refused:
            complete(upload.id, part_ids=parts, md5=checksum or openai.omit)
        assert refused.value.param == param
    stranger = server.client_for(create_key(db, "stranger", ["read", "write"]))
    with pytest.raises(openai.NotFoundError):
        stranger.uploads.complete(upload.id, part_ids=[first, second])
    dropped = send(server, upload, b"sent again, and not named")
    assert dropped not in (first, second)
    done = complete(upload.id, part_ids=[first, second], md5=found.upper())
    assert done.file
    assert server.client.files.content(done.file.id).read() == CONTENT
    assert sorted(stored(server)) == ["files", "parts"], "the other upload's"


def test_an_upload_ends_once_and_the_same_completion_has_the_same_answer(server: Served) -> None:
    upload = begin(server)
    parts = halves(server, upload)
    done = server.client.uploads.complete(upload.id, part_ids=parts)
    assert server.client.uploads.complete(upload.id, part_ids=parts) == done
    assert len(server.client.files.list().data) == 1
    other = begin(server)
    own = halves(server, other)
    for _ in range(2):
        assert server.client.uploads.cancel(other.id).status == "cancelled"
    for refuse in (
        lambda: server.client.uploads.complete(upload.id, part_ids=parts[::-1]),
        lambda: server.client.uploads.cancel(upload.id),
        lambda: server.client.uploads.complete(other.id, part_ids=own),
        lambda: send(server, other, b"more"),
    ):
        with pytest.raises(openai.ConflictError, match=r"is (completed|cancelled)") as refused:
            refuse()
        assert refused.value.response.headers["x-should-retry"] == "false"
    assert stored(server) == ["files"]


def test_an_upload_expires_after_an_hour_and_the_janitor_drops_its_parts(
    server: Served, owner: Engine
) -> None:
    upload = begin(server)
    parts = halves(server, upload)
    fresh = send(server, begin(server), b"fresh")
    with owner.begin() as connection:
        late = text("UPDATE upload SET expires_at = now() WHERE id = :id")
        connection.execute(late, {"id": upload.id})
    for refuse in (
        lambda: server.client.uploads.complete(upload.id, part_ids=parts),
        lambda: server.client.uploads.cancel(upload.id),
        lambda: send(server, upload, b"more"),
    ):
        with pytest.raises(openai.ConflictError, match="is expired") as refused:
            refuse()
        assert refused.value.code == "upload_expired"
    assert stored(server) == ["parts"] * 3
    janitor = Janitor(server.settings)
    for _ in range(2):
        janitor.expire()
        assert stored(server) == ["parts"], fresh
    janitor.db.close()


def test_a_crash_while_it_is_completed_leaves_it_to_be_completed(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(server)
    parts = halves(server, upload)

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    for where, name in ((uploads, "complete"), (uploads, "put_together"), (files, "add")):
        with monkeypatch.context() as patched:
            patched.setattr(where, name, crash)
            with pytest.raises(openai.InternalServerError):
                server.client.uploads.complete(upload.id, part_ids=parts)
        assert server.client.files.list().data == []
    assert server.client.uploads.complete(upload.id, part_ids=parts).file


@pytest.mark.parametrize("overtaken", [False, True])
def test_two_completions_at_once_make_one_file(
    server: Served, monkeypatch: pytest.MonkeyPatch, overtaken: bool
) -> None:
    upload = begin(server)
    parts = halves(server, upload)
    both_read, one_done = threading.Barrier(2), threading.Event()
    calls = iter(range(2))
    really: Callable[..., str] = uploads.put_together

    def put_together(*arguments: Any) -> str:
        if overtaken and next(calls):
            one_done.wait(60)
            return really(*arguments)
        found = really(*arguments)
        if not overtaken:
            both_read.wait(60)
        return found

    monkeypatch.setattr(uploads, "put_together", put_together)

    def complete(_: int) -> Upload:
        done = server.client.uploads.complete(upload.id, part_ids=parts)
        one_done.set()
        return done

    with ThreadPoolExecutor(2) as both:
        first, second = both.map(complete, range(2))
    assert first == second
    assert stored(server) == ["files"]


def test_a_large_one_is_checked_by_the_janitor_and_expires_as_it_was_asked(
    serve_with: Callable[..., Served],
) -> None:
    server = serve_with(check_at_once_bytes=10)
    upload = begin(server, expires_after={"anchor": "created_at", "seconds": 7200})
    done = server.client.uploads.complete(upload.id, part_ids=halves(server, upload))
    assert done.file
    assert done.file.status == "uploaded"
    assert done.file.expires_at == done.file.created_at + 7200
    janitor = Janitor(server.settings)
    janitor.sweep()
    join_checks(janitor)
    janitor.db.close()
    assert server.client.files.wait_for_processing(done.file.id).status == "processed"


def test_an_announcement_sent_again_is_the_same_upload(server: Served) -> None:
    again = {"x-stainless-retry-count": "1"}
    upload = begin(server)
    assert begin(server, extra_headers=again).id == upload.id
    assert begin(server).id != upload.id


def test_a_files_name_is_one_that_every_disk_holds_however_it_comes(server: Served) -> None:
    http, content = server.http(), data_set()
    for name, right in (("é" * 127 + "x", True), ("é" * 128, False), ("x" * 131_073, False)):
        asked = {"filename": name, "purpose": "fine-tune", "bytes": 9, "mime_type": "a"}
        in_parts = http.post("/v1/uploads", json=asked)
        assert in_parts.status_code == (200 if right else 400)
        at_once = http.post(
            "/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"}
        )
        assert at_once.status_code == (200 if right else 400)
        if name.endswith("é"):
            assert "has 256 bytes in UTF-8" in in_parts.text
            assert "has 256 bytes in UTF-8" in at_once.text
    long = http.get(f"/v1/files/{'x' * 2_000}")
    assert (long.status_code, "address is too long" in long.text) == (400, True)
