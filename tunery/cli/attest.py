"""`tunery attest URL`: whether a server answers with the weights that were trained."""

import asyncio
import sys
from pathlib import Path

import httpx
from pydantic import ValidationError

from tunery.cli.access import NoAccess, is_local, key_of, shell, url_of
from tunery.cli.show import plain, print_json, print_table
from tunery.cli.verbs import of_job, verbs
from tunery.proof.kept import PROOF, Proof
from tunery.proof.server import SECONDS, ServerAsked, Unreachable, within
from tunery.proof.verdict import Finding, Verdict, judge

CHECKPOINT = ":ckpt-step-"
EXIT: dict[Verdict, int] = {
    "verified": 0,
    "answers_as_base": 3,
    "answers_as_other": 4,
    "not_measurable": 5,
}
IN_WORDS: dict[Verdict, str] = {
    "verified": "Verified: {model} at {url} answers with the trained weights.",
    "answers_as_base": "{model} at {url} answers as the base model, without what was trained.",
    "answers_as_other": "{model} at {url} answers neither as the trained model nor as its base.",
    "not_measurable": "It cannot be told which weights {model} at {url} answers with.",
}


def run(
    url: str,
    proof: str,
    *,
    model: str | None = None,
    key_env: str | None = None,
    as_json: bool = False,
) -> None:
    """Exits with the verdict's code."""
    try:
        address = url_of(url, "URL")
        key = key_of(shell(key_env), key_env) if key_env else None
    except NoAccess as error:
        sys.exit(f"tunery: {error}")
    kept = proof_of(proof)
    try:
        name, finding = asyncio.run(ask(address.removesuffix("/v1"), kept, model, key))
    except Unreachable as error:
        sys.exit(f"tunery: {error}")
    if as_json:
        print_json({"model": name, "url": address} | finding.model_dump(mode="json"))
    else:
        show(kept, finding)
        plain().print(IN_WORDS[finding.verdict].format(model=name, url=address))
    sys.exit(EXIT[finding.verdict])


def proof_of(named: str) -> Proof:
    """Of a file, else of a tuned model of the service."""
    path = Path(named)
    if path.is_dir():
        path /= PROOF
    if path.is_file():
        text = path.read_bytes()
    elif CHECKPOINT in named:
        sys.exit(f"tunery: {named} is a checkpoint, of which no proof is kept.")
    else:
        with verbs() as ask:
            job = ask.get_model(named).get("job_id")
            if job is None:
                sys.exit(f"tunery: {named} is a base model, of which there is nothing to prove.")
            text = ask.client.get(of_job(job, f"/artifacts/{PROOF}"), cast_to=bytes)
    try:
        return Proof.model_validate_json(text)
    except ValidationError as error:
        sys.exit(f"tunery: {named} has no {PROOF} that can be read: {error.errors()[0]['msg']}.")


async def ask(root: str, proof: Proof, model: str | None, key: str | None) -> tuple[str, Finding]:
    """(the model's name there, what its answers show)."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # As `Access.client`: a proxy has no business with what stays on this machine.
    async with httpx.AsyncClient(
        timeout=SECONDS, headers=headers, trust_env=not is_local(root)
    ) as client:
        name = model or await only_model(client, root)
        return name, judge(proof, await ServerAsked(client, root, name).hear(proof))


async def only_model(client: httpx.AsyncClient, root: str) -> str:
    try:
        answer = (await client.get(f"{root}/v1/models")).json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unreachable(f"{root}/v1/models does not answer ({error}). Is it running?") from error
    names = [within(each, "id") for each in within(answer, "data") or []]
    if len(names) != 1 or not isinstance(names[0], str):
        there = ", ".join(map(str, names[:20])) or "none"
        raise Unreachable(f"Choose one of the server's models with --model: it names {there}.")
    return names[0]


def show(proof: Proof, finding: Finding) -> None:
    held_out = "held-out" if proof.held_out else "training"
    base = f"{proof.base_model} ({proof.quantization}, {proof.computed_in})"
    chosen = f"{finding.forks_as_tuned} as tuned, {finding.forks_as_base} as base"
    print_table(
        ("asked", "found"),
        [
            ("rows", f"{len(proof.rows)} {held_out} rows, on {base}"),
            ("tokens compared", f"{finding.places} by {finding.how or 'nothing'}"),
            ("from base (0) to tuned (1)", error_of(finding.share, finding.share_error)),
            ("off the tuned model", nats(finding.off_tuned)),
            ("off the base", nats(finding.off_base)),
            ("base and tuned apart", nats(finding.apart)),
            ("tokens chosen", chosen),
            ("chat template", finding.template.replace("_", " ")),
        ],
    )
    plain().print(finding.reason)


def nats(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.4f} nats a token"


def error_of(share: float | None, error: float | None) -> str:
    return "" if share is None else f"{share:.3f} ± {error:.3f}"
