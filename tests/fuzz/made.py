"""What schemathesis makes of /openapi.json: right and wrong requests to each route."""

from copy import deepcopy
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from tests.fuzz.round import Round


def send_what_schemathesis_makes(fuzzing: Round) -> None:
    # Without the bearer: else most of its wrong requests are such as lack a key.
    document = deepcopy(fuzzing.world.document)
    for methods in document["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        fuzzing.world.lend_for(operation.path)
        for mode in GenerationMode:

            @seed(fuzzing.seed)
            @settings(
                max_examples=fuzzing.cases // 2,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
                verbosity=Verbosity.quiet,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: Case[Any]) -> None:
                send_case(fuzzing, case)

            try:
                send()
            except Unsatisfiable:  # there is no wrong way to ask this
                continue


def send_case(fuzzing: Round, case: Case[Any]) -> None:
    world, dice = fuzzing.world, fuzzing.dice
    # In a form every value is a text, and so none is of a wrong type.
    wrong = case.media_type == "application/json" and any(
        place.value == "body" and part.mode.is_negative
        for place, part in (case.meta.components if case.meta else {}).items()
    )
    case.path_parameters = world.mix(case.path_parameters, dice)
    if isinstance(case.body, dict) and not wrong:
        case.body = world.mix(case.body, dice)
    case.query |= {name: 0 for name in ("wait", "follow") if name in case.query}
    made = requests.Request(**case.as_transport_kwargs(base_url="http://x")).prepare()
    answer = fuzzing.send(
        case.method,
        case.path,
        (made.url or "").removeprefix("http://x"),
        headers={name: value for name, value in made.headers.items() if name != "Content-Length"},
        content=made.body,
    )
    if wrong and answer.is_success:
        asked = f"{case.method} {case.path} {case.body!r}"
        fuzzing.blame(f"{case.method} {case.path}", "takes what its schema refuses", asked)
