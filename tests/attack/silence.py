"""What is asked for and not known: whether anything of it is ignored."""

import re

from tests.attack.town import Town
from tests.chaos.judge import Outcome


def parameters(town: Town, count: int) -> Outcome:
    """`a` sends parameters that no route has, to each route in turn."""
    outcome = Outcome(count=count)
    outcome.expect_none("ignored", "5xx")
    with town.house(workers=0) as house:
        paths = house.a.http.get("/openapi.json").json()["paths"]
        routes = [(method, path) for path, verbs in paths.items() for method in verbs]
        for number in range(count):
            method, path = routes[number % len(routes)]
            name = f"parameter_{number}"
            address = re.sub(r"[{}]", "", path)
            answer = house.a.http.request(method, address, params={name: "x"})
            where = f"{method} {path}: {answer.status_code}"
            if answer.status_code >= 500:
                outcome.miss("5xx", where)
            elif answer.status_code != 400 or answer.json()["error"]["param"] != name:
                outcome.miss("ignored", where)
            else:
                outcome.tally["refused by their names"] += 1
    return outcome
