"""The same storage as a folder, and as a bucket of a real server."""

import pytest

from api.settings import Settings


@pytest.fixture(params=["folder", "bucket"])
def of_each_kind(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    if request.param == "folder":
        return settings
    chosen: Settings = request.getfixturevalue("in_bucket")
    return chosen
