"""The same storage as a folder, and as a bucket of a real server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import Settings
from tests import s3


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    os.environ |= s3.ENVIRONMENT  # noqa: TID251 - where boto3 looks for them
    with s3.start_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def proxy(s3_url: str) -> Iterator[s3.Proxy]:
    with s3.Proxy(s3_url) as started:
        yield started


@pytest.fixture
def in_bucket(settings: Settings, proxy: s3.Proxy, tmp_path: Path) -> Settings:
    """Settings of an installation whose storage is a bucket."""
    return settings.model_copy(
        update={
            "storage": s3.new_bucket(),
            "s3_endpoint": proxy.url,
            "s3_path_style": True,
            "storage_cache": tmp_path / "cache",
        }
    )


@pytest.fixture(params=["folder", "bucket"])
def of_each_kind(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if request.param == "folder":
        return settings
    chosen: Settings = request.getfixturevalue("in_bucket")
    return chosen
