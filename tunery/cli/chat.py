"""`tunery chat`: what it takes."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tunery.cli.show import Json

ITS_BASE = "(its base)"


class WithBareVs(TyperCommand):
    """`--vs` that no name follows stands for the model's own base."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        given = list[str]()
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            given += [word, ITS_BASE] if word == "--vs" and following.startswith("-") else [word]
        return super().parse_args(ctx, given)


def chat(
    model: Annotated[str, typer.Argument(help="A tuned model, a checkpoint, or a base model.")],
    question: Annotated[
        str | None, typer.Argument(help="One question; by default a conversation, or from a pipe.")
    ] = None,
    vs: Annotated[
        str | None,
        typer.Option(
            metavar="[OTHER]",
            help="Ask this model, too, and show both answers; without a name the model's own base.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="At 0 the likeliest word is always chosen; by default 1."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of an answer; by default what the context holds."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same one gives the same answer on the same machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a model: once, or in a conversation.

    In a conversation /reset begins anew, /system TEXT sets the system prompt, and /quit ends it.
    Ctrl-C ends an answer; a second one ends the conversation.
    """
    from tunery.cli.conversation import run

    asked = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    run(
        model,
        question,
        vs=vs,
        system=system,
        settings={name: value for name, value in asked.items() if value is not None},
        as_json=as_json,
    )
