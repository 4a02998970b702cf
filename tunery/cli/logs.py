"""`tunery logs`: the engine's log of a job."""

import sys
from collections.abc import Iterator

from openai import Stream

from tunery.cli.access import service
from tunery.cli.show import print_json


class Text(Stream[str]):
    """A text as it comes."""

    def __stream__(self) -> Iterator[str]:
        yield from self.response.iter_text()


def run(
    job_id: str, *, attempt: int | None, tail: int | None, follow: bool, as_json: bool = False
) -> None:
    asked = {"attempt": attempt, "tail": tail, "follow": follow or None}
    params = {name: value for name, value in asked.items() if value is not None}
    path = f"/fine_tuning/jobs/{job_id}/logs"
    with (
        service() as client,
        client.get(
            path, cast_to=str, stream=True, stream_cls=Text, options={"params": params}
        ) as log,
    ):
        if as_json:
            print_json({"job_id": job_id, "log": "".join(log)})
            return
        for piece in log:
            sys.stdout.write(piece)
            sys.stdout.flush()
