"""``chiron ask``: a question on images put to a model, its answer shown as it is written."""

from pathlib import Path
from typing import Annotated

import typer

ONLY_THINKING = "allow more with --max-tokens N, or have the model think less (parameters in the configuration)"


def command(
    words: Annotated[list[str], typer.Argument(metavar="IMAGE... QUESTION", help="Images, then the question in quotes.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Under models of the configuration; without one, a checkpoint's folder.")],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML with models.")] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups", metavar="N,N,...", help="Images of each modality, in order: 2,1 for two CT slices and a film. Default: 1 each."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(metavar="T", min=0, max=2)] = 0.0,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer (default: the configuration's, else 1024).")
    ] = None,
) -> None:
    """Put a question to a model and read its reasoning as it comes. For research; not a medical device.

    A question that marks its images itself ("... (Modality 1: <image>)") is asked as it is, nothing added.
    """
    import asyncio

    from rich.markup import escape

    from chiron.cli.streams import messages
    from chiron.client.failures import CallFailed
    from chiron.client.finish_reasons import finish_note
    from chiron.errors import InputError
    from chiron.evaluation.ask import Asked, answer
    from chiron.evaluation.config import load_evaluation
    from chiron.terminal import printable

    *images, question = words
    chosen = load_evaluation(config, model)
    asked = Asked([Path(name) for name in images], question, temperature, max_tokens, _sizes(groups))

    async def show() -> None:
        written, reply = False, None
        try:
            async for piece in answer(asked, model, chosen):
                written, reply = written or bool(piece.text), piece.reply
                # Line ends are the answer's own; nothing else of it may move the cursor.
                lines = piece.text.replace("\r", "").expandtabs(4).split("\n")
                print("\n".join(printable(line) for line in lines), end="", flush=True)
        finally:
            # What went wrong half-way is told on a line of its own.
            if written:
                print()
        if reply is not None and reply.only_thinking:
            ended = " and the token limit ended it" if reply.cut_off else ""
            raise InputError(f"{model}'s reply is nothing but thinking{ended}: {ONLY_THINKING}")
        if reply is not None and reply.cut_off:
            messages().print("note: the token limit ended the answer here; --max-tokens N allows a longer one")
        if reply is not None and (note := finish_note(reply.finish)):
            messages().print(f"note: {escape(printable(note))}")

    try:
        asyncio.run(show())
    except CallFailed as failure:
        raise InputError(failure.public) from failure


def _sizes(groups: str | None) -> tuple[int, ...]:
    from chiron.errors import InputError

    try:
        return tuple(int(size) for size in groups.split(",")) if groups is not None else ()
    except ValueError:
        raise InputError(f"--groups {groups}: write how many images each modality has, for example 2,1") from None
