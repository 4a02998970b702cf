"""How much of the disk one tenant can take, and what a few kilobytes of it cost."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pyarrow as pa
from pyarrow import parquet

from api.tenants.arrivals import STEP_BYTES
from tests.attack.hold import checked_in
from tests.attack.town import House, Tenant, Town
from tests.chaos.cluster import ROWS as ROWS_OF_HOUSE
from tests.chaos.cluster import VALID_ROWS
from tests.chaos.judge import Outcome
from tests.factories import data_set

QUOTA_BYTES = 20_000_000
PART = b"x" * (1 << 16)
PARTS = 1_600  # 100 MB
ROWS = 1_000_000
FORMATS = ("peft", "merged")


def unannounced(town: Town, count: int) -> Outcome:
    """So many connections at once send 100 MB each without saying how much will come."""
    outcome = Outcome(count=count)
    outcome.expect_none("accepted", "too many on the disk", "left there")
    with town.house(workers=0) as house:
        limit(house, house.a, stored_bytes=QUOTA_BYTES)
        incoming = house.folder / "storage" / "incoming"
        with most_bytes(incoming) as most, ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda _: pour(house.a), range(count)))
        for answer in answers:
            outcome.tally[f"answered {answer}"] += 1
            if answer == 200:
                outcome.miss("accepted", "100 MB into a quota of 20 MB")
        outcome.tally["MB on the disk at most"] = most[0] // 1_000_000
        if most[0] > QUOTA_BYTES + 2 * count * STEP_BYTES:
            outcome.miss("too many on the disk", f"{most[0]:,} bytes")
        if left := bytes_in(incoming):
            outcome.miss("left there", f"{left:,} bytes")
        if house.a.upload(data_set()).is_error:
            outcome.miss("left there", "a small file does not fit into the quota")
    return outcome


def pour(tenant: Tenant) -> int | str:
    """The answer's status; or the error of a connection that was closed before all was sent."""

    def body() -> Iterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--B\r\n'
        yield b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        for _ in range(PARTS):
            yield PART
        yield b"\r\n--B--\r\n"

    kind = {"content-type": "multipart/form-data; boundary=B"}
    try:
        return tenant.http.post("/v1/files", content=body(), headers=kind).status_code
    except httpx.TransportError as error:
        return type(error).__name__


def limit(house: House, tenant: Tenant, **limits: int) -> None:
    project = tenant.http.get("/v1/project").json()["id"]
    path = f"/v1/admin/projects/{project}"
    house.http.post(path, json={"limits": limits}).raise_for_status()


def bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@contextmanager
def most_bytes(folder: Path) -> Iterator[list[int]]:
    """The most bytes that lay in the folder at one time, looked at every few milliseconds."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], bytes_in(folder))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        done.set()
        watching.join()


def exports(town: Town, count: int) -> Outcome:
    """`a` asks for the same two exports of one model over and over."""
    outcome = Outcome(count=count)
    outcome.expect_none("5xx", "exports twice", "not counted", "begun though full")
    with town.house() as house:
        file_id = house.a.upload(data_set()).json()["id"]
        job_id = house.a.create(file_id).json()["id"]
        house.a.settled(job_id)
        path = f"/v1/fine_tuning/jobs/{job_id}/exports"
        for number in range(count):
            answer = house.a.http.post(path, json={"format": FORMATS[number % len(FORMATS)]})
            outcome.tally[f"answered {answer.status_code}"] += 1
            if answer.status_code >= 500:
                outcome.miss("5xx", answer.text)
        made = house.a.http.get(path).json()["data"]
        outcome.tally["exports"] = len(made)
        if len(made) != len(FORMATS):
            outcome.miss("exports twice", f"{len(made)} of {len(FORMATS)} formats")
        until = time.monotonic() + 60
        while any(one["status"] != "succeeded" for one in made) and time.monotonic() < until:
            time.sleep(0.2)
            made = house.a.http.get(path).json()["data"]
        stored = bytes_in(house.folder / "storage")
        counted = house.a.http.get("/v1/project").json()["usage"]["stored_bytes"]
        of_house = sum(len(data_set(rows)) for rows in (ROWS_OF_HOUSE, VALID_ROWS))
        outcome.tally["kB stored"] = stored // 1_000
        if counted < stored - of_house:
            outcome.miss("not counted", f"{counted:,} of {stored:,} bytes")
        limit(house, house.a, stored_bytes=counted)
        for again in (house.a.create(file_id), house.a.upload(data_set(13))):
            if again.status_code != 429:
                outcome.miss("begun though full", f"{again.status_code} {again.text}")
    return outcome


def bombs(town: Town, count: int) -> Outcome:
    """`a`'s Parquet files of 4 kB that unpack to a million rows; and then a file of `b`."""
    outcome = Outcome(count=count)
    outcome.expect_none("not refused", "b waited")
    with town.house(workers=0, check_at_once_bytes=1) as house:
        sent = [
            house.a.upload(bomb(number), "bomb.parquet").json()["id"] for number in range(count)
        ]
        began = time.monotonic()
        outcome.took("b's file", checked_in(house.b, data_set(200)), at_most=30)
        for file_id in sent:
            file = house.a.checked(file_id)
            if file["status"] != "error" or "unpacks" not in file["status_details"]:
                outcome.miss("not refused", f"{file['status']}: {file['status_details']}")
        outcome.seconds["all of a's"] = [time.monotonic() - began]
    return outcome


def bomb(number: int) -> bytes:
    table = pa.table({"text": pa.repeat(f"a text, {number}", ROWS)})
    packed = io.BytesIO()
    parquet.write_table(table, packed, compression="zstd")
    return packed.getvalue()


def names(town: Town, count: int) -> Outcome:
    """File names of 256 bytes to 130 kB, in upload and multi-part upload by turns."""
    outcome = Outcome(count=count)
    outcome.expect_none("accepted", "5xx")
    with town.house(workers=0) as house:
        for number in range(count):
            name = "é" * (128 + number * 65_000 // count)
            if number % 2:
                announced = {"filename": name, "bytes": 9, "mime_type": "text/jsonl"}
                asked = {"purpose": "fine-tune", **announced}
                answer = house.a.http.post("/v1/uploads", json=asked)
            else:
                answer = house.a.upload(data_set(), name)
            outcome.tally[f"answered {answer.status_code}"] += 1
            if answer.status_code >= 500:
                outcome.miss("5xx", answer.text[:300])
            elif answer.is_success:
                outcome.miss("accepted", f"a name of {len(name.encode())} bytes")
        outcome.tally["bytes of the list of files"] = len(house.a.http.get("/v1/files").content)
    return outcome
