"""An evaluation's answers on their way to the API, with the grader's scores. Judges are asked by
the API: a worker knows no other model.
"""

from collections.abc import Iterator
from pathlib import Path

import orjson

from tunery import messages
from tunery.evaluations import AnsweredRow, batches, shortened
from tunery.grading.grade import grade, trouble_of
from tunery.grading.graders import Grader, fields_of, judges_of, paths_of
from tunery.grading.templates import Sample
from worker.client import Client
from worker.protocol import EVALUATION


def send_evaluation(client: Client, lease: messages.Lease, results: Path) -> None:
    """What the engine left beside the `results`, however long that takes; nothing where there is
    none. Raises as `Client.add_answers`.
    """
    wanted, path = lease.spec.evaluation, results.parent / EVALUATION
    if wanted is None or lease.export or not path.exists():
        return
    for batch in batches(list(graded(wanted.grader, path))):
        client.add_answers(lease, batch, patience=float("inf"))


def graded(grader: Grader, path: Path) -> Iterator[AnsweredRow]:
    read = fields_of(grader)
    whole = ("item",) in set(paths_of(grader))
    for line in path.read_bytes().splitlines():
        row = orjson.loads(line)
        item = row["item"]
        scores: dict[str, object] = {}
        if not judges_of(grader):
            base = grade(grader, item, Sample(row["base"], row["base_calls"]))
            tuned = grade(grader, item, Sample(row["tuned"], row["tuned_calls"]))
            scores = {"base_score": base.reward, "tuned_score": tuned.reward}
            scores["trouble"] = trouble_of(base, tuned)
        used = item if whole else {name: item[name] for name in read if name in item}
        yield AnsweredRow.model_validate({**row, "item": shortened(used), **scores})
