"""`tunery usage`: what devices were taken for, by whom, and what that cost."""

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from tunery.cells import cell
from tunery.cli.show import print_json, print_table
from tunery.cli.verbs import Answer, Verbs, verbs

# How the API calls what a report may be by, and what shows it: the first that is there.
BY = {
    "project": ("project_id", ("project", "project_id")),
    "key": ("api_key_id", ("api_key", "api_key_id")),
    "user": ("user_id", ("user", "user_id")),
    "model": ("model", ("model",)),
    "pool": ("pool", ("pool",)),
}
SUMMED = ("device_seconds", "num_attempts", "trained_tokens", "num_model_requests")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

# A group with the currency of its cost.
Group = tuple[str | None, ...]


def run(
    since: str | None,
    until: str | None,
    by: list[str],
    *,
    mine: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    wanted = by or ([] if mine else ["project"])
    if unknown := [one for one in wanted if one not in BY]:
        sys.exit(f"tunery: a report is not by {unknown[0]!r}; use some of {', '.join(BY)}.")
    now = datetime.now(UTC)
    start = moment(since) if since else now.replace(day=1, hour=0, minute=0, second=0)
    asked = [("start_time", str(int(start.timestamp()))), ("limit", "31")]
    asked += [("end_time", str(int(moment(until).timestamp())))] if until else []
    asked += [("group_by", BY[name][0]) for name in wanted]
    with verbs(admin=not mine) as ask:
        buckets = list(pages(ask, "/usage" if mine else "/admin/usage", asked))
    if as_json:
        print_json({"object": "list", "data": buckets})
        return
    sums = summed(buckets, wanted)
    heads = (*wanted, *SUMMED, "cost", "currency")
    if as_csv:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(heads)
        lines.writerows([*line(group, used)] for group, used in sums.items())
        return
    shown = ("device hours", "attempts", "trained tokens", "answers", "cost")
    print_table((*wanted, *shown), (row(group, used) for group, used in sums.items()))


def moment(day: str) -> datetime:
    """When a day begins, in UTC. Ends the command for what is none."""
    try:
        if DAY.fullmatch(day):
            return datetime.fromisoformat(day).replace(tzinfo=UTC)
    except ValueError:
        pass
    sys.exit(f"tunery: {day!r} is no day; write it as 2026-12-31. Days begin at midnight in UTC.")


def pages(ask: Verbs, path: str, asked: list[tuple[str, str]]) -> Iterator[Answer]:
    """The buckets of all pages."""
    after: list[tuple[str, str]] = []
    while True:
        # Lists as the API takes them; the SDK would write `group_by[]`.
        page = ask.get(f"{path}?{urlencode([*asked, *after])}")
        yield from page["data"]
        if not page["has_more"]:
            return
        after = [("page", page["next_page"])]


def summed(buckets: list[Answer], by: list[str]) -> dict[Group, dict[str, float]]:
    """Over all buckets, the group first that took devices for longest."""
    results = [result for bucket in buckets for result in bucket["results"]]
    currencies = {one["amount"]["currency"] for one in results if one["amount"]}
    # What had no price is told with the rest, unless that is of several kinds.
    only = currencies.pop() if len(currencies) == 1 else None
    found: dict[Group, dict[str, float]] = {}
    for one in results:
        money: Mapping[str, Any] = one["amount"] or {}
        named = (next(filter(None, (one[name] for name in BY[each][1])), None) for each in by)
        group = (*named, money.get("currency", only))
        used = found.setdefault(group, dict.fromkeys((*SUMMED, "cost"), 0))
        used["cost"] += money.get("value", 0)
        for name in SUMMED:
            used[name] += one[name]
    order = sorted(found, key=lambda group: -found[group]["device_seconds"])
    return {group: found[group] for group in order}


def line(group: Group, used: Mapping[str, float]) -> Iterator[object]:
    yield from (cell(name) for name in group[:-1])
    yield from (used[name] for name in SUMMED)
    yield from (round(used["cost"], 6), group[-1]) if group[-1] else ("", "")


def row(group: Group, used: Mapping[str, float]) -> tuple[str, ...]:
    cost = f"{used['cost']:,.2f} {group[-1]}" if group[-1] else "-"
    counts = (used[name] for name in SUMMED[1:])
    told = (f"{count:,.0f}" if count else "-" for count in counts)
    hours = f"{used['device_seconds'] / 3600:,.2f}"
    return (*(name or "-" for name in group[:-1]), hours, *told, cost)
