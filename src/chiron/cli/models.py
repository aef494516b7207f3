"""`chiron init`, `chiron doctor` and `chiron ask`."""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.text import Text

from chiron.cli.streams import messages, results
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from chiron.client.config import ProviderConfig
    from chiron.client.provider import Finding
    from chiron.providers.registry import RoleCall


def _complete_template(incomplete: str) -> list[str]:
    from chiron.mics.prompts import TEMPLATES

    return [name for name in TEMPLATES if name.startswith(incomplete)]


def init_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="TEMPLATE",
            help="Template; without one, the command asks on a terminal. The same as --template.",
            autocompletion=_complete_template,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-t",
            metavar="TEMPLATE",
            help="one-key, openai, gemini, openrouter, vllm, ollama, paper, offline, practice, or chiron-o1 (published models, for eval).",
            autocompletion=_complete_template,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")] = Path("chiron.yaml"),
) -> None:
    """Write a configuration file with a comment on every line, and next to it the schema with which editors complete it.

    Without a template, the command asks for one, and for 'one-key' also for the address, the key's variable and the models.
    """
    from chiron.cli.schema import CONFIGURATION_FILE, SchemaKind, write_schema

    if name is not None and template is not None and name != template:
        raise InputError(f"two templates are named, '{name}' and '{template}': name one")
    text = _template(name or template)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{out} already exists: name another file with --out") from None
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    write_schema(SchemaKind.CONFIGURATION, out.parent / CONFIGURATION_FILE)
    todo = "edit the models, then check them with:" if "base_url" in text else "check it with:"
    print(printable(f"wrote {out}, and {CONFIGURATION_FILE} for editors; {todo}"))
    print(printable(f"chiron doctor {shlex.quote(str(out))}"))


_ONE_KEY: Final = (
    ("address up to /v1", "https://api.example.com/v1"),
    ("environment variable that contains the key", "EXAMPLE_API_KEY"),
    ("strong model (mentor)", "first-strong-model"),
    ("second strong model (mentor)", "second-strong-model"),
    ("weak model (intern)", "first-weak-model"),
    ("second weak model (intern)", "second-weak-model"),
    ("judge", "judge-model"),
)
"""What 'chiron init' asks for the template 'one-key', and the text in the template that the reply replaces."""


def _template(name: str | None) -> str:
    """Return the text of a template. On a terminal, ask which one if no name is given."""
    from chiron.client.config_file import nearest
    from chiron.mics.prompts import TEMPLATES, template

    asking = name is None
    if name is None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InputError(f"no template is named: use --template NAME, with one of {', '.join(TEMPLATES)}")
        names = list(TEMPLATES)
        for number, known in enumerate(names, 1):
            typer.echo(f"{number:>3}  {known:12}{TEMPLATES[known]}", err=True)
        given = typer.prompt("Number or name of the template", default="1", err=True)
        name = names[int(given) - 1] if given.isdecimal() and len(given) < 3 and 0 < int(given) <= len(names) else given
    if name not in TEMPLATES:
        advice = nearest(name, TEMPLATES) or f"; choose one of {', '.join(TEMPLATES)}"
        raise InputError(f"unknown template '{printable(name)}'{advice}")
    text = template(name)
    return _one_key(text) if asking and name == "one-key" else text


def _one_key(text: str) -> str:
    from chiron.client.config_checks import check_base_url, check_variable

    for question, placeholder in _ONE_KEY:
        given = str(typer.prompt(question, default=placeholder, err=True)).strip()
        try:
            if placeholder.startswith("https://"):
                check_base_url(given)
            elif placeholder.isupper():
                check_variable(given, "the reply")
        except ValueError as error:
            raise InputError(f"{question}: {error}") from None
        text = text.replace(placeholder, given if placeholder.isupper() else json.dumps(given, ensure_ascii=False))
    return text


def doctor_command(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file.")],
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Send one small call for each role of a model, in the form of that role's calls.")
    ] = True,
) -> None:
    """Check a configuration: keys, endpoints, lists of models, and whether images are accepted. Exit code 2 if a check fails.

    Checks the models that the sections search and build name. If there is a section evaluation, or no section at all, it checks all
    models, because 'chiron eval --model' can name any.
    """
    from chiron.client.config_file import ConfigFile, read_config, validate

    data = read_config(config)
    uses: dict[str, list[RoleCall]] = {}
    for name, role in _uses(data, config):
        if role not in uses.setdefault(name, []):
            uses[name].append(role)
    models = validate(ConfigFile, data, origin=config).models
    if not models:
        raise InputError(f"{config} has no models: add some under models ('chiron init' writes an example)")
    if not uses or "evaluation" in data:
        uses = {**{name: [_measured()] for name in models}, **uses}
    console = results()
    console.print(f"{escape(printable(config))} is valid; its models:")
    faults = asyncio.run(_examine({name: models[name] for name in uses}, uses, console, ask=ask))
    for name in (name for name in models if name not in uses):
        console.print(Text(f"        {printable(name)}: not checked, because no section names it"))
    if faults:
        raise InputError(f"{config}: {faults} {'fault' if faults == 1 else 'faults'}, marked above: fix the configuration or the server")


_SEVERAL = 2
"""Number of images in the call of a role that sees images: some servers accept only one."""


def _measured() -> "RoleCall":
    """Return the form of the calls of 'chiron eval' and 'chiron ask'."""
    from chiron.providers.registry import RoleCall

    return RoleCall("model", _SEVERAL, 64, system=False, temperature=0.0)


def _uses(data: Mapping[str, Any], origin: Path) -> "Iterator[tuple[str, RoleCall]]":
    """Yield every model that a section names, with the form of its calls; check the sections and their prompts.

    Raises:
        InputError: a section or a prompt is invalid.
    """
    from chiron.providers.registry import RoleCall

    if "search" in data:
        from chiron.mics.config import check_config
        from chiron.mics.prompts import load_prompts

        run = check_config(dict(data), origin=origin)
        load_prompts(run.search.prompts)
        limits = run.search.max_tokens
        sent = {
            "mentors": RoleCall("mentor", _SEVERAL, limits.mentor, system=True, temperature=run.search.mentor_temperature),
            "interns": RoleCall("intern", _SEVERAL, limits.intern, system=True, temperature=run.search.temperatures[0]),
            "judge": RoleCall("judge", 0, limits.judge, system=True, temperature=0.0),
        }
        yield from ((name, sent[role]) for role, name in run.named())
    if "build" in data:
        from chiron.mmrp.config import BuildFile, BuildPrompts

        file = BuildFile.check(dict(data), origin=origin)
        BuildPrompts.load(file.build.prompts)
        images = _SEVERAL if file.build.show_images else 0
        for role, name in file.named():
            limit, temperature = getattr(file.build.max_tokens, role), getattr(file.build, f"{role}_temperature")
            yield name, RoleCall(role, images, limit, system=True, temperature=temperature)
    if "evaluation" in data:
        from chiron.evaluation.config import EvaluationFile, EvaluationPrompts

        chosen = EvaluationFile.check(dict(data), origin=origin)
        EvaluationPrompts.load(chosen.evaluation.prompts)
        evaluated = chosen.evaluation.max_tokens
        sent = {
            "judge": RoleCall("judge", 0, evaluated.judge, system=True, temperature=0.0),
            "extractor": RoleCall("extractor", 0, evaluated.extractor, system=False, temperature=0.0),
            "ranker": RoleCall("ranker", _SEVERAL, evaluated.ranker, system=False, temperature=0.0),
            "reward_model": RoleCall("reward_model", _SEVERAL, evaluated.reward_model, system=False, temperature=0.0),
            "graders": RoleCall("grader", 0, evaluated.grader, system=False, temperature=0.0),
            "checkers": RoleCall("checker", 0, evaluated.checker, system=False, temperature=0.0),
            "interns": RoleCall("intern", _SEVERAL, evaluated.intern, system=True, temperature=chosen.evaluation.intern_temperatures[0]),
        }
        yield from ((name, sent[role]) for role, name in chosen.named())


async def _examine(
    models: "Mapping[str, ProviderConfig]", uses: "Mapping[str, Sequence[RoleCall]]", console: "Console", *, ask: bool
) -> int:
    """Check all models at the same time, print the findings, and return the number of faults."""
    from chiron.providers.registry import probe

    async def look(name: str) -> "list[Finding]":
        return [f async for f in probe(name, models[name], uses[name] if ask else ())]

    faults = 0
    for findings in [asyncio.create_task(look(name)) for name in models]:
        for f in await findings:
            faults += f.ok is False
            mark, style = ("ok", "green") if f.ok else ("?", "yellow") if f.ok is None else ("FAULT", "red")
            console.print(Text.assemble((f"{mark:>6}", style), f"  {printable(f'{f.model}: {f.what}: {f.detail}')}"))
    return faults


ONLY_THINKING = "raise --max-tokens, or let the model think less (parameters in the configuration)"


def ask_command(
    words: Annotated[list[str], typer.Argument(metavar="IMAGE... QUESTION", help="Images, then the question in quotes.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Model of the configuration; without --config, a checkpoint's folder.")],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML configuration with models.")] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="N,N,...",
            help="Number of images of each modality, in order, such as 2,1 for two CT slices and a film (default: 1 each).",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0, max=2, help="Sampling temperature (default: 0; 0.7 for several samples).")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="K", min=1, help="Ask K times, and print a reply with the most frequent final answer.")
    ] = 1,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", min=1, help="Maximum tokens of the answer (default: the configuration's, else 1024)."),
    ] = None,
) -> None:
    """Ask a model a question about images and print its reasoning as it arrives. For research; not a medical device.

    A question with its own image marks ("... (Modality 1: <image>)") is sent unchanged.
    """
    from chiron.client.call import finish_note
    from chiron.client.failures import CallFailed
    from chiron.evaluation.ask import Asked, answer, voted_answer
    from chiron.evaluation.config import load_evaluation
    from chiron.evaluation.preparation import SAMPLING

    *images, question = words
    chosen = load_evaluation(config, model)
    asked = Asked([Path(name) for name in images], question, _temperature(temperature, samples, SAMPLING), max_tokens, _sizes(groups))

    async def show_vote() -> None:
        voted = await voted_answer(asked, model, chosen, samples)
        print(_lines(voted.reply))
        others = ", ".join(f"{given or 'no final answer'} ({count})" for given, count in voted.others)
        note = f"{voted.votes} of {samples} samples give this answer" + (f"; others: {others}" if others else "")
        messages().print(f"note: {escape(printable(note))}")

    async def show() -> None:
        written, reply = False, None
        try:
            async for piece in answer(asked, model, chosen):
                written, reply = written or bool(piece.text), piece.reply
                print(_lines(piece.text), end="", flush=True)
        finally:
            # An error after a part of the answer starts on its own line.
            if written:
                print()
        if reply is not None and reply.only_thinking:
            ended = " and the token limit ended it" if reply.cut_off else ""
            raise InputError(f"{model}'s reply contains only thinking{ended}: {ONLY_THINKING}")
        if reply is not None and reply.cut_off:
            messages().print("note: the token limit ended the answer; raise --max-tokens for a longer one")
        if reply is not None and (note := finish_note(reply.finish)):
            messages().print(f"note: {escape(printable(note))}")

    try:
        asyncio.run(show() if samples == 1 else show_vote())
    except CallFailed as failure:
        raise InputError(failure.public) from failure


def _lines(text: str) -> str:
    """Return a text with its line breaks. No other character may move the cursor."""
    return "\n".join(printable(line) for line in text.replace("\r", "").expandtabs(4).split("\n"))


def _temperature(given: float | None, samples: int, sampling: float) -> float:
    return given if given is not None else sampling if samples > 1 else 0.0


def _sizes(groups: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in groups.split(",")) if groups is not None else ()
    except ValueError:
        raise InputError(f"--groups {groups}: write the number of images of each modality, for example 2,1") from None
