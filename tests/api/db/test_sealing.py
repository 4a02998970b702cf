import pytest

from api.db.sealing import seal, unseal
from tunery.errors import Conflict

SECRET = "s" * 32


def test_what_is_sealed_opens_only_where_it_belongs_and_with_its_key() -> None:
    sealed = seal(SECRET, "whsec_abc", project_id="proj_a", name="x")
    assert "whsec_abc" not in sealed
    assert unseal(SECRET, sealed, project_id="proj_a", name="x") == "whsec_abc"
    assert seal(SECRET, "whsec_abc", project_id="proj_a", name="x") != sealed
    changed = sealed[:-2] + ("A=" if sealed[-2:] != "A=" else "B=")
    for secret, text, project_id, name, why in (
        (SECRET, sealed, "proj_b", "x", "not what was sealed"),
        (SECRET, sealed, "proj_a", "y", "not what was sealed"),
        (SECRET, changed, "proj_a", "x", "not what was sealed"),
        ("t" * 32, sealed, "proj_a", "x", "TUNERY_SECRET gives key"),
    ):
        with pytest.raises(Conflict, match=why) as refused:
            unseal(secret, text, project_id=project_id, name=name)
        assert "whsec_abc" not in refused.value.message
