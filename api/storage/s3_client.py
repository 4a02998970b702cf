"""How an S3-compatible server is asked, and what its refusals say."""

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from api.settings import Settings

CONNECT_SECONDS, READ_SECONDS, TRIES = 3, 20, 3
# For what workers wait for in threads that hear heartbeats, too.
QUICK_READ_SECONDS, QUICK_TRIES = 5, 2
CONNECTIONS = 64


def connect(settings: Settings, endpoint: str | None, *, quick: bool = False) -> Any:  # noqa: ANN401 - made at run time
    """Which keys it uses is for boto3 to find: in the environment, a file, or by the machine's
    role.
    """
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.s3_path_style else "auto"},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=QUICK_READ_SECONDS if quick else READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": QUICK_TRIES if quick else TRIES},
            max_pool_connections=CONNECTIONS,
            # We say which checksum; a second one of boto3's choice costs time and some servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="tunery",
        ),
    )


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def why(error: ClientError) -> str:
    """For the operator."""
    code = code_of(error)
    if code == "NoSuchBucket" or status_of(error) == 404:
        return f"the bucket is not there ({code})"
    if status_of(error) in {401, 403}:
        return f"the server refuses these credentials, or what they may do ({code})"
    return f"{code}: {error.response.get('Error', {}).get('Message', '')}"
