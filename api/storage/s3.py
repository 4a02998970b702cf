"""Storage in a bucket of an S3-compatible server. Workers and users are given links to the bucket,
so that their bytes do not pass through the API.
"""

import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

from botocore.exceptions import BotoCoreError, ClientError

from api.db.session import Database
from api.settings import Bucket, Settings
from api.storage import parts as parted
from api.storage.cache import Cache
from api.storage.incoming import Incoming
from api.storage.parts import NOTED, digest_of, in_base64
from api.storage.s3_client import code_of, connect, status_of, why
from api.storage.storage import (
    CHUNK_BYTES,
    DISK_FULL,
    KEY,
    LINK_SECONDS,
    MARK,
    Storage,
    Target,
    clear_old,
    damaged,
    require_key,
    slowly,
)
from tunery.errors import BytesGone, StorageAway, StorageFull

# Whether it is there is asked at most so often; what fails in between is asked about at once.
SEEN_SECONDS = 5
# A link is made once for all who want it in this time: it lives much longer.
LINK_KEPT_SECONDS = 600
LINKS_KEPT = 4_096
# How often a download goes on where it broke off.
RESUMES = 5
# A day's scrub reads one object in so many; of the others it asks the server for the checksum.
READ_ONE_IN = 30
DAY = 24 * 3600

FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity"}
REFUSED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "InvalidRequest"}

log = logging.getLogger(__name__)


class S3(Storage):
    def __init__(self, bucket: Bucket, settings: Settings, db: Database | None = None) -> None:
        in_temp = Path(tempfile.gettempdir()) / f"tunery-storage-{os.geteuid()}"
        own = settings.storage_cache or in_temp
        self.folder = own / bucket.name
        secret = settings.secret.get_secret_value()
        super().__init__(str(bucket), self.folder / "incoming", secret, db)
        self.bucket = bucket
        self.links = settings.s3_links
        self.cache = Cache(self.folder / "copies", settings.storage_cache_bytes)
        self.client = connect(settings, settings.s3_endpoint)
        self.quick = connect(settings, settings.s3_endpoint, quick=True)
        public = settings.s3_public_endpoint
        self.signer = connect(settings, public) if public else self.client
        self.signed = lru_cache(LINKS_KEPT)(self.sign_get)
        self.looking = threading.Lock()
        self.look_at = 0.0

    def where(self, key: str) -> parted.Where:
        prefix = f"{self.bucket.prefix}/" if self.bucket.prefix else ""
        return {"Bucket": self.bucket.name, "Key": prefix + key}

    def place(self, key: str) -> parted.Where:
        return self.where(require_key(key))

    def require_there(self) -> None:
        with self.looking:
            if time.monotonic() >= self.look_at:
                try:
                    self.look()
                finally:
                    self.look_at = time.monotonic() + SEEN_SECONDS
        if self.away:
            raise StorageAway("The service's storage is away. Try again in a moment.")

    def look(self) -> None:
        with self.in_words():
            self.expect_mark()
            self.require_mark(self.read_mark())

    def read_mark(self, name: str = MARK) -> str | None:
        with self.in_words():
            try:
                answer = self.quick.get_object(**self.where(name))
                with closing(answer["Body"]) as body:
                    return str(body.read(1_024).decode())
            except ClientError as error:
                if code_of(error) == "NoSuchKey":
                    return None
                raise

    def make_mark(self, mark: str) -> str:
        """Only in a bucket whose server compares checksums: it is what keeps wrong bytes out."""
        with self.in_words():
            try:
                wrong = in_base64(hashlib.sha256(b"another").hexdigest())
                probe = self.where(f"{MARK}.probe")
                self.client.put_object(**probe, Body=b"one", ChecksumSHA256=wrong)
            except ClientError as error:
                if code_of(error) not in REFUSED:
                    raise
            else:
                self.client.delete_object(**probe)
                raise self.lost("its server does not compare the SHA-256 of what it is sent")
            try:
                self.client.put_object(**self.where(MARK), Body=mark.encode(), IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in {"PreconditionFailed", "ConditionalRequestConflict"}:
                    raise
        return self.read_mark() or ""

    def rename_mark(self, old: str, new: str) -> None:
        mark = self.read_mark(old)
        with self.in_words():
            self.client.put_object(**self.where(new), Body=(mark or "").encode())
            self.client.delete_object(**self.where(old))

    @contextmanager
    def in_words(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code in FULL:
                raise StorageFull("The service's storage is full; nothing was stored.") from error
            raise self.lost(f"{error.operation_name}: {why(error)}") from error
        except (BotoCoreError, OSError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise StorageFull("The server's disk is full; nothing was stored.") from error
            raise self.lost(str(error)) from error

    def lost(self, why: str, *if_so: str) -> StorageAway:
        self.look_at = 0.0
        return super().lost(why, *if_so)

    def ask(self, call: str, key: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """Raises `StorageAway`, or `BytesGone` where it is proven that nothing is there."""
        place, client = self.place(key), self.quick if call == "head_object" else self.client
        with self.in_words():
            try:
                answer: dict[str, Any] = getattr(client, call)(**place, **more)
            except ClientError as error:
                if status_of(error) != 404:
                    raise
            else:
                return answer
        self.look()
        raise BytesGone("The file's bytes are gone from storage.")

    def has(self, key: str, size: int) -> bool:
        try:
            return bool(self.ask("head_object", key)["ContentLength"] == size)
        except BytesGone:
            return False

    def read(self, key: str) -> Iterator[bytes]:
        """A download that breaks off goes on where it was."""
        done, resumes = 0, 0
        more: dict[str, Any] = {}
        while True:
            answer = self.ask("get_object", key, **more)
            size = done + answer["ContentLength"]
            with closing(answer["Body"]) as body:
                try:
                    while done < size:
                        chunk = body.read(CHUNK_BYTES)
                        done += len(chunk)
                        yield chunk
                except BotoCoreError as error:
                    resumes += 1
                    if resumes > RESUMES:
                        raise self.lost(str(error)) from error
                    log.warning("a download from storage goes on after %d bytes: %s", done, error)
                    more = {"Range": f"bytes={done}-", "IfMatch": answer["ETag"]}
                else:
                    return

    def prove(self, key: str, digest: str) -> None:
        """By what the server has computed. An object that was brought here by other means is read
        through.
        """
        found = digest_of(self.ask("head_object", key, ChecksumMode="ENABLED"))
        if (found or self.digest_read(key)) != digest:
            raise damaged()

    def digest_read(self, key: str) -> str:
        found = hashlib.sha256()
        for chunk in self.read(key):
            found.update(chunk)
        return found.hexdigest()

    def local(self, key: str, digest: str) -> Path:
        with self.in_words():
            self.require_private()
            return self.cache.find(require_key(key)) or self.cache.fetch(
                key, digest, self.read(key)
            )

    def read_again(self, key: str, digest: str) -> None:
        """A server reads what it stores again itself. So this is done with one object in thirty a
        day, each of them in its turn, and the others are asked about.
        """
        self.prove(key, digest)
        if (crc32(key.encode()) + int(time.time() // DAY)) % READ_ONE_IN == 0:
            found = hashlib.sha256()
            for chunk in slowly(self.read(key)):
                found.update(chunk)
            if found.hexdigest() != digest:
                raise damaged()

    def receive(self, *, limit: int, what: str = "file") -> Incoming:
        with self.in_words():
            self.require_private()
        return super().receive(limit=limit, what=what)

    def require_private(self) -> None:
        """Makes the folder on this machine. Its copies count as proven: nobody else may read or put
        any. Raises `OSError` where it is somebody else's, as it may be among temporary files.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = os.geteuid()
        if self.folder.stat().st_uid != own or self.folder.parent.stat().st_uid not in {0, own}:
            raise OSError(f"{self.folder.parent} is another user's: set TUNERY_STORAGE_CACHE")

    def keep(self, incoming: Incoming, key: str) -> None:
        """What is sent is also the copy that is read here."""
        with self.in_words():
            parted.put(self.client, self.place(key), incoming.path, incoming.size, incoming.digest)
        # What is kept while the mark goes may not be moved with the rest.
        self.look()
        if self.cache.most_bytes:
            with self.in_words():
                self.cache.take(key, incoming.path)

    def copy(self, key: str, to: str) -> None:
        """Of what is small: S3 copies 5 GiB at once."""
        self.ask("copy_object", to, CopySource=self.place(key))

    def delete(self, key: str) -> None:
        with self.in_words():
            self.client.delete_object(**self.place(key))
            self.cache.forget(key)

    def delete_all(self, keys: list[str]) -> None:
        objects = [{"Key": self.place(key)["Key"]} for key in keys]
        with self.in_words():
            done = self.client.delete_objects(
                Bucket=self.bucket.name, Delete={"Objects": objects, "Quiet": True}
            )
            for key in keys:
                self.cache.forget(key)
        for error in done.get("Errors", []):
            log.error("the bytes under %s stay behind: %s", error["Key"], error["Code"])

    def listed(self, call: str, found: str, time_of: str, seconds: float) -> Iterator[Any]:
        """What is under our prefix, and is older."""
        before = datetime.fromtimestamp(time.time() - seconds, UTC)
        pages = self.client.get_paginator(call)
        with self.in_words():
            for page in pages.paginate(Bucket=self.bucket.name, Prefix=self.where("")["Key"]):
                yield from (one for one in page.get(found, []) if one[time_of] <= before)

    def keys(self, older_than_seconds: float) -> Iterator[str]:
        own = len(self.where("")["Key"])
        for each in self.listed("list_objects_v2", "Contents", "LastModified", older_than_seconds):
            key = each["Key"][own:]
            if "/" in key and KEY.fullmatch(key):
                yield key

    def clear_incoming(self, older_than_seconds: float) -> None:
        """And uploads in parts that nobody completed."""
        clear_old(self.incoming, older_than_seconds)
        begun = self.listed("list_multipart_uploads", "Uploads", "Initiated", older_than_seconds)
        for each in list(begun):
            with self.in_words():
                try:
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket.name, Key=each["Key"], UploadId=each["UploadId"]
                    )
                except ClientError as error:
                    if code_of(error) != "NoSuchUpload":  # another janitor's, or just completed
                        raise

    def link_for_worker(self, key: str) -> str | None:
        return None if self.links == "nobody" else self.link(key)

    def link_for_user(self, key: str, name: str) -> str | None:
        return self.link(key, name) if self.links == "everyone" else None

    def link(self, key: str, name: str | None = None) -> str:
        return self.signed(key, name, int(time.time() // LINK_KEPT_SECONDS))

    def sign_get(self, key: str, name: str | None, _: int) -> str:
        """The number keeps a link from being handed out for ever."""
        told = {"ResponseContentType": "application/octet-stream"}
        if name is not None:
            plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
            told["ResponseContentDisposition"] = f'attachment; filename="{plain}"'
        return self.presigned("get_object", self.place(key) | told)

    def presigned(self, call: str, asked: dict[str, Any]) -> str:
        with self.in_words():
            url: str = self.signer.generate_presigned_url(
                call, Params=asked, ExpiresIn=LINK_SECONDS
            )
            return url

    def target(self, key: str, *, size: int, digest: str) -> Target | None:
        if self.links == "nobody" or size > parted.MOST_AT_ONCE_BYTES:
            return None
        checksum = in_base64(digest)
        told = {"ContentLength": size, "ChecksumSHA256": checksum, "Metadata": {NOTED: digest}}
        return Target(
            self.presigned("put_object", self.place(key) | told),
            {"x-amz-checksum-sha256": checksum, f"x-amz-meta-{NOTED}": digest},
        )

    def part_bytes(self, size: int) -> int | None:
        large = size > parted.MOST_AT_ONCE_BYTES
        return parted.LINKED_PART_BYTES if large and self.links != "nobody" else None

    def begin_parts(
        self, key: str, *, size: int, digest: str, parts: list[str]
    ) -> tuple[str, list[Target]]:
        sizes = parted.sizes_of(size, parts)
        with self.in_words():
            upload_id = parted.begin(self.client, self.place(key), digest)
        targets = []
        for number, (part, length) in enumerate(zip(parts, sizes, strict=True), 1):
            checksum = in_base64(part)
            told = {
                "UploadId": upload_id,
                "PartNumber": number,
                "ContentLength": length,
                "ChecksumSHA256": checksum,
            }
            url = self.presigned("upload_part", self.place(key) | told)
            targets.append(Target(url, {"x-amz-checksum-sha256": checksum}))
        return upload_id, targets

    def end_parts(self, key: str, upload_id: str, parts: list[str]) -> None:
        with self.in_words():
            try:
                parted.complete(self.client, self.place(key), upload_id, parts)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
                # It was completed before, or there is nothing: whoever asks next will see.
