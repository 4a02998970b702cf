"""What a bucket does beside: it takes and gives bytes itself, and its server may be slow, cut off,
overloaded or away.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from api.admin import forget_storage
from api.db.session import Database
from api.settings import Bucket, Settings
from api.storage import parts
from api.storage.cache import Cache
from api.storage.s3 import S3
from tests import s3
from tests.api.speaking import ADAPTER, claim, finish, send, succeeded
from tests.conftest import ROOT, Served
from tests.factories import create_job, data_set, upload
from tests.worker.conftest import Work
from tests.worker.test_pushed_bases import NAME, push
from tunery.base_model import file_facts
from tunery.errors import BytesDamaged, StorageAway
from worker.client import ApiRefused, Client

CONTENT = bytes(range(256)) * 100
DIGEST = sha256(CONTENT).hexdigest()


@pytest.fixture
def storage(in_bucket: Settings, db: Database) -> S3:
    assert isinstance(in_bucket.storage, Bucket)
    return S3(in_bucket.storage, in_bucket, db)


@pytest.fixture
def served(in_bucket: Settings, serve_with: Callable[..., Served]) -> Served:
    return serve_with(**dict(in_bucket))


@pytest.fixture
def worker(served: Served) -> Iterator[Client]:
    client = Client(served.url, served.worker_key)
    yield client
    client.http.close()


def store(storage: S3, key: str, content: bytes = CONTENT) -> None:
    with storage.receive(limit=1 << 30) as incoming:
        incoming.write(content)
        incoming.keep(key)


def lies_there(storage: S3, key: str) -> bool:
    return key in list(storage.keys(-60))


def test_the_bytes_of_workers_and_users_do_not_pass_through_the_api(
    served: Served, worker: Client, proxy: s3.Proxy, tmp_path: Path
) -> None:
    job = create_job(served.client)
    lease = claim(worker)
    assert lease
    assert lease.training_file
    proxy.faults.passed.clear()
    worker.download(lease.training_file, tmp_path / "data", patience=0)
    finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
    path = f"/fine_tuning/jobs/{job.id}/artifacts/adapter_model.safetensors"
    served.client.get(path, cast_to=bytes)
    put = [one for one in proxy.faults.passed if one.method == "PUT" and one.sent]
    assert {one.agent.split("/")[0] for one in put} == {"python-httpx"}
    assert sorted(one.sent for one in put) == sorted(map(len, set(ADAPTER.values())))
    given = [one for one in proxy.faults.passed if one.method == "GET" and one.status == 200]
    assert [one.came for one in given if "Boto3" not in one.agent] == [len(data_set()), 7]


def test_a_link_takes_the_very_bytes_that_it_was_made_for(storage: S3) -> None:
    storage.require_there()
    target = storage.target("jobs/j/1/a", size=len(CONTENT), digest=DIGEST)
    assert target
    other = CONTENT[::-1]
    own = parts.in_base64(sha256(other).hexdigest())
    for content, url, headers in (
        (other, target.url, target.headers),
        (other, target.url, target.headers | {"x-amz-checksum-sha256": own}),
        (CONTENT + b".", target.url, target.headers),
        (CONTENT, target.url, {}),
        (CONTENT, target.url.replace("/1/a", "/2/a"), target.headers),
    ):
        assert httpx.put(url, content=content, headers=headers).status_code in {400, 403}
    assert not list(storage.keys(-60))
    for _ in range(2):
        assert httpx.put(target.url, content=CONTENT, headers=target.headers).is_success
    storage.prove("jobs/j/1/a", DIGEST)


def test_a_browsers_script_gets_bytes_from_the_api_and_its_user_a_file_by_its_name(
    served: Served,
) -> None:
    file = upload(served.client, name="größte rows.jsonl")
    path, http = f"/v1/files/{file.id}/content", served.http()
    script = {"sec-fetch-mode": "cors", "sec-fetch-site": "same-origin"}
    by_script = http.get(path, headers=script | {"range": "bytes=0-4"})
    assert (by_script.status_code, by_script.content) == (206, data_set()[:5])
    saved = http.get(path, headers=script | {"sec-fetch-mode": "navigate"})
    assert saved.status_code == 302
    followed = httpx.get(saved.headers["location"])
    assert followed.content == data_set()
    assert followed.headers["content-disposition"] == 'attachment; filename="gr__te_rows.jsonl"'


def test_who_cannot_reach_the_bucket_or_is_not_to_gets_all_from_the_api(
    in_bucket: Settings, serve_with: Callable[..., Served], db: Database, tmp_path: Path
) -> None:
    for changed in ({"s3_public_endpoint": "http://127.0.0.1:1"}, {"s3_links": "nobody"}):
        served = serve_with(**dict(in_bucket) | {"storage": s3.new_bucket()} | changed)
        forget_storage(db)
        job = create_job(served.client)
        worker = Client(served.url, served.worker_key)
        lease = claim(worker)
        assert lease
        assert lease.training_file
        assert bool(lease.training_file.direct) == ("s3_links" not in changed)
        worker.download(lease.training_file, tmp_path / "data", patience=0)
        assert (tmp_path / "data").read_bytes() == data_set()
        finish(worker, lease, succeeded(send(worker, lease, tmp_path, ADAPTER)))
        assert served.client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
        worker.http.close()


@pytest.mark.parametrize("reachable", [True, False])
def test_a_pushed_base_comes_from_the_bucket_to_workers_that_reach_it(
    in_bucket: Settings,
    serve_with: Callable[..., Served],
    proxy: s3.Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reachable: bool,
) -> None:
    public = None if reachable else "http://127.0.0.1:1"
    served = serve_with(**dict(in_bucket) | {"s3_public_endpoint": public})
    push(served, ROOT / "models" / "tiny", monkeypatch)
    job = create_job(served.client, model=NAME)
    proxy.faults.passed.clear()
    worker = Work(served, tmp_path / "work", "finish")
    worker.run()
    assert served.client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    fetched = [one for one in proxy.faults.passed if "/bases/" in one.path and one.came > 200_000]
    assert [one.agent.partition("/")[0] for one in fetched] == ["python-httpx"] * reachable
    worker.close()


def test_a_worker_that_storage_refuses_asks_the_api(
    served: Served, worker: Client, proxy: s3.Proxy, tmp_path: Path
) -> None:
    create_job(served.client)
    lease = claim(worker)
    assert lease
    assert lease.training_file
    proxy.faults.refuse, proxy.faults.methods = 1, ("PUT",)
    sent = send(worker, lease, tmp_path, {"state.bin": b"state"})
    worker.upload(lease, tmp_path / "state.bin", sent[0], patience=0)
    proxy.faults.cut, proxy.faults.methods = 1, ("GET",)
    worker.download(lease.training_file, tmp_path / "data", patience=0)
    assert (tmp_path / "data").read_bytes() == data_set()
    storage = served.settings.storage
    assert isinstance(storage, Bucket)
    own = S3(storage, served.settings)
    (key,) = [key for key in own.keys(-60) if key.startswith("files/")]
    own.delete(key)
    with pytest.raises(ApiRefused) as gone:
        worker.download(lease.training_file, tmp_path / "data", patience=0)
    assert gone.value.code == "content_gone"


def test_a_large_file_of_a_worker_goes_to_storage_in_parts(
    served: Served,
    worker: Client,
    proxy: s3.Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "MOST_AT_ONCE_BYTES", 6 << 20)
    monkeypatch.setattr(parts, "LINKED_PART_BYTES", 5 << 20)
    create_job(served.client)
    lease = claim(worker)
    assert lease
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(range(256)) * (11 << 12))
    facts = file_facts(path)
    proxy.faults.passed.clear()
    proxy.faults.slow_down, proxy.faults.methods = 1, ("PUT",)
    worker.upload(lease, path, facts, patience=0)
    sent = [one.sent for one in proxy.faults.passed if one.method == "PUT"]
    assert sent == [5 << 20, 5 << 20, 1 << 20]
    assert isinstance(served.settings.storage, Bucket)
    storage = S3(served.settings.storage, served.settings)
    key = f"jobs/{lease.job_id}/{lease.token}/{facts.sha256}"
    storage.prove(key, facts.sha256)
    assert storage.digest_read(key) == facts.sha256
    before = list(proxy.faults.passed)
    worker.upload(lease, path, facts, patience=0)
    assert not [one for one in proxy.faults.passed[len(before) :] if one.method == "PUT"]
    wrong = [sha256(b"other").hexdigest()] * 3
    upload_id, targets = storage.begin_parts(
        key, size=facts.bytes, digest=facts.sha256, parts=wrong
    )
    answer = httpx.put(targets[0].url, content=bytes(5 << 20), headers=targets[0].headers)
    assert answer.status_code == 400
    assert upload_id in {one["UploadId"] for one in half_finished(storage)}
    storage.clear_incoming(60)
    assert half_finished(storage), "it may be on its way"
    seen = half_finished(storage)
    storage.clear_incoming(-60)
    assert not half_finished(storage)
    monkeypatch.setattr(storage, "listed", lambda *_: iter(seen))
    storage.clear_incoming(-60)  # another janitor was faster
    assert not storage.away


def half_finished(storage: S3) -> list[dict[str, str]]:
    return list(storage.listed("list_multipart_uploads", "Uploads", "Initiated", -3600))


def test_an_upload_that_breaks_off_leaves_nothing(
    storage: S3, proxy: s3.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "AT_ONCE_BYTES", 5 << 20)
    storage.require_there()
    proxy.faults.refuse, proxy.faults.methods = 1, ("PUT",)
    with pytest.raises(StorageAway):
        store(storage, "files/a", bytes(6 << 20))
    assert not half_finished(storage)
    assert not lies_there(storage, "files/a")
    assert [path for path in storage.folder.rglob("*") if path.is_file()] == []


def test_an_overload_and_a_cut_in_the_middle_are_gone_over_again(
    storage: S3, proxy: s3.Proxy
) -> None:
    proxy.faults.slow_down = 2
    store(storage, "files/a", CONTENT * 100)
    proxy.faults.cut, proxy.faults.methods = 3, ("GET",)
    assert storage.digest_read("files/a") == sha256(CONTENT * 100).hexdigest()
    proxy.faults.delay = 0.3
    assert storage.has("files/a", len(CONTENT) * 100)


def test_a_server_that_stays_overloaded_is_waited_for_and_costs_nobody_a_job(
    served: Served, worker: Client, proxy: s3.Proxy
) -> None:
    job = create_job(served.client)
    proxy.faults.slow_down = 1_000_000
    time.sleep(5)
    http = served.http()
    parts_of_form = {"file": ("a.jsonl", data_set()), "purpose": (None, b"fine-tune")}
    for answer in (
        http.get("/readyz"),
        http.get(f"/v1/files/{job.training_file}/content"),
        http.post("/v1/files", files=list(parts_of_form.items())),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_away")
        assert answer.headers["retry-after"]
    assert claim(worker) is None
    proxy.faults.slow_down = 0
    until = time.monotonic() + 20
    while (lease := claim(worker)) is None and time.monotonic() < until:
        time.sleep(0.5)
    assert lease
    assert lease.job_id == job.id


def test_a_server_that_is_gone_and_one_that_refuses_the_keys_are_away(
    in_bucket: Settings, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(in_bucket.storage, Bucket)
    nowhere = in_bucket.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    assert S3(in_bucket.storage, nowhere, db).is_away()
    assert S3(Bucket("no-such-bucket", ""), in_bucket, db).is_away()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert S3(in_bucket.storage, in_bucket, db).is_away()
    monkeypatch.undo()
    S3(in_bucket.storage, in_bucket, db).require_there()


def test_a_bucket_whose_server_compares_no_checksums_is_refused(
    storage: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(**_: object) -> None:
        """As a server that knows no such header."""

    monkeypatch.setattr(storage.client, "put_object", deaf)
    with pytest.raises(StorageAway):
        storage.require_there()


def test_an_object_that_was_brought_by_other_means_is_read_to_prove_it(storage: S3) -> None:
    storage.client.put_object(**storage.where("files/a"), Body=CONTENT)
    storage.prove("files/a", DIGEST)
    with pytest.raises(BytesDamaged):
        storage.prove("files/a", sha256(b"other").hexdigest())


def test_the_copies_on_this_machine_are_nobody_elses(
    storage: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(storage, "files/a")
    assert storage.local("files/a", DIGEST).read_bytes() == CONTENT
    assert storage.folder.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "geteuid", lambda: storage.folder.stat().st_uid + 1)
    with pytest.raises(StorageAway):
        storage.local("files/a", DIGEST)


def test_copies_make_room_for_others_unless_they_may_be_in_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)
    for number in range(3):
        content = bytes([number]) * 60
        path = cache.fetch(f"files/{number}", sha256(content).hexdigest(), [content])
        assert path.read_bytes() == content
    assert cache.find("files/0"), "it was asked for within the hour"
    monthly = time.time() - 30 * 24 * 3600
    for number in (1, 2):
        os.utime(cache.path(f"files/{number}"), (monthly, monthly + number))
    cache.make_room()
    assert cache.find("files/0")
    assert cache.find("files/1") is None
    with pytest.raises(BytesDamaged):
        cache.fetch("files/9", sha256(b"right").hexdigest(), [b"wrong"])
    assert not cache.path("files/9").exists()


def test_a_server_that_says_nothing_holds_no_thread_for_longer_than_a_heartbeat_can_wait(
    in_bucket: Settings, db: Database
) -> None:
    assert isinstance(in_bucket.storage, Bucket)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        at = in_bucket.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{port}"})
        storage = S3(in_bucket.storage, at, db)
        storage.mark = "known"
        began = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(lambda _: storage.is_away(), range(8)))
        assert time.monotonic() - began < 20
