"""Files sent to a bucket: at once, or in parts where they are large. S3 itself compares each part's
SHA-256 with what came; the whole file's is noted with the object.
"""

import hashlib
from base64 import b64decode, b64encode
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tunery.errors import InvalidRequest

# What is sent at once is sent again as a whole when it breaks off.
AT_ONCE_BYTES = 64 << 20
# The most that S3 takes at once. Whoever has a link sends up to so much, and more in parts.
MOST_AT_ONCE_BYTES = 5 << 30
LINKED_PART_BYTES = 1 << 30
# The most that S3 takes.
MOST_PARTS = 10_000

NOTED = "sha256"

Where = dict[str, str]


def in_base64(digest: str) -> str:
    return b64encode(bytes.fromhex(digest)).decode()


def digest_of(head: dict[str, Any]) -> str | None:
    """SHA-256 of an object as its server knows it: computed there if it came at once, else as noted
    when its parts had been compared. None: it did not come from here.
    """
    whole = head.get("ChecksumSHA256", "-")
    if "-" not in whole:  # else it is over the parts' checksums
        return b64decode(whole).hex()
    noted: str | None = head.get("Metadata", {}).get(NOTED)
    return noted


def put(client: Any, where: Where, path: Path, size: int, digest: str) -> None:  # noqa: ANN401
    with path.open("rb") as file:
        if size <= AT_ONCE_BYTES:
            client.put_object(
                **where, Body=file, ChecksumSHA256=in_base64(digest), Metadata={NOTED: digest}
            )
            return
        upload = begin(client, where, digest)
        try:
            sent, whole = [], hashlib.sha256()
            for number in count(1):
                chunk = file.read(AT_ONCE_BYTES)
                if not chunk:
                    break
                whole.update(chunk)
                part = {"ChecksumSHA256": in_base64(hashlib.sha256(chunk).hexdigest())}
                answer = client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=chunk, **part
                )
                sent.append({"PartNumber": number, "ETag": answer["ETag"], **part})
            require_same(whole.hexdigest(), digest, path)
            client.complete_multipart_upload(
                **where, UploadId=upload, MultipartUpload={"Parts": sent}
            )
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(**where, UploadId=upload)
            raise


def require_same(found: str, digest: str, path: Path) -> None:
    """Raises `OSError`: the disk it lay on has changed it."""
    if found != digest:
        raise OSError(f"{path} does not read as it was written")


def begin(client: Any, where: Where, digest: str) -> str:  # noqa: ANN401
    begun = client.create_multipart_upload(
        **where, ChecksumAlgorithm="SHA256", Metadata={NOTED: digest}
    )
    upload_id: str = begun["UploadId"]
    return upload_id


def sizes_of(size: int, parts: list[str]) -> list[int]:
    """Of the parts of a file, which are of one size but for the last."""
    sizes = [min(LINKED_PART_BYTES, size - at) for at in range(0, size, LINKED_PART_BYTES)]
    if len(sizes) != len(parts) or len(sizes) > MOST_PARTS:
        raise InvalidRequest(
            f"{size:,} bytes are sent in {len(sizes)} parts of {LINKED_PART_BYTES:,} bytes, not in "
            f"{len(parts)}; and at most {MOST_PARTS:,} parts are taken.",
            param="parts",
        )
    return sizes


def complete(client: Any, where: Where, upload_id: str, parts: list[str]) -> None:  # noqa: ANN401
    """The parts that came, each of which must be of its SHA-256."""
    pages = client.get_paginator("list_parts").paginate(**where, UploadId=upload_id)
    tags = {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", [])}
    missing = [number for number in range(1, len(parts) + 1) if number not in tags]
    if missing:
        raise InvalidRequest(f"Part {missing[0]} of the file has not been sent.", param="parts")
    sent = [
        {"PartNumber": number, "ETag": tags[number], "ChecksumSHA256": in_base64(digest)}
        for number, digest in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": sent})
