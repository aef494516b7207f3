"""`chiron schema`: JSON schemas of the files that people write, generated from the classes that read them."""

import ast
import inspect
import json
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import BaseModel, TypeAdapter, create_model

from chiron.errors import InputError
from chiron.terminal import printable

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
CONFIGURATION_FILE: Final = "chiron.schema.json"
"""Name of the configuration's schema, which ``chiron init`` writes next to the configuration."""


class SchemaKind(StrEnum):
    """Kinds of files that people write."""

    CONFIGURATION = "configuration"
    RECIPE = "recipe"
    PUBLISHED = "published"


def schema_command(
    kind: Annotated[
        SchemaKind,
        typer.Argument(metavar="KIND", help="configuration (of search, build, eval, ask), recipe (of train), published (of compare)."),
    ] = SchemaKind.CONFIGURATION,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: standard output).")] = None,
) -> None:
    """Print the JSON schema of a file, for editors that complete and check it.

    'chiron init' writes the schema of a configuration next to it, and its first line names it for editors with a YAML language server.
    """
    if out is None:
        print(_text(kind), end="")
        return
    write_schema(kind, out)
    print(printable(f"wrote {out}; name it in the first line of a YAML file: # yaml-language-server: $schema={out.name}"))


def write_schema(kind: SchemaKind, path: Path) -> None:
    """Write a schema to a file, replacing an earlier one.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.write_text(_text(kind), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def json_schema(kind: SchemaKind) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a kind of file. A configuration may have the providers of installed packages.

    Raises:
        InputError: a package's provider cannot be loaded.
    """
    classes, form = _form(kind)
    schema = form.json_schema()
    definitions: dict[str, dict[str, Any]] = {**schema.get("$defs", {}), str(schema.get("title")): schema}
    for cls in classes:
        described = definitions.get(cls.__name__)
        if described is not None:
            _describe(cls, described)
    return {"$schema": DIALECT, **schema, "title": f"Chiron {kind.value}"}


def _text(kind: SchemaKind) -> str:
    return json.dumps(json_schema(kind), indent=1, ensure_ascii=False) + "\n"


def _form(kind: SchemaKind) -> tuple[list[type[BaseModel]], TypeAdapter[Any]]:
    """Return the classes whose fields have docstrings, and the type of the whole file."""
    match kind:
        case SchemaKind.CONFIGURATION:
            from chiron.client.config_file import ConfigFile, with_providers
            from chiron.client.provider import GROUP
            from chiron.evaluation.config import EvaluationConfig
            from chiron.mics.config import SearchConfig
            from chiron.mmrp.config import BuildConfig
            from chiron.plugins import plugins

            sections: dict[str, Any] = {
                "search": (SearchConfig | None, None),
                "build": (BuildConfig | None, None),
                "evaluation": (EvaluationConfig | None, None),
            }
            # Each command checks its own section; a file may have all of them.
            file = create_model("Configuration", __base__=with_providers(ConfigFile, plugins(GROUP)), **sections)
            return _all_models(), TypeAdapter(file)
        case SchemaKind.RECIPE:
            from chiron.training.recipe import Recipe

            return _all_models(), TypeAdapter(Recipe)
        case SchemaKind.PUBLISHED:
            from chiron.evaluation.published import Published

            return [Published], TypeAdapter(list[Published])


def _all_models() -> list[type[BaseModel]]:
    """Return all configuration classes that were imported."""
    from chiron.client.config import Strict

    found: list[type[BaseModel]] = []
    waiting = [Strict]
    while waiting:
        inner = waiting.pop().__subclasses__()
        found += inner
        waiting += inner
    return found


def _describe(cls: type[BaseModel], schema: dict[str, Any]) -> None:
    """Add the docstrings of a class's fields, and of those that it inherits, to its schema."""
    for base in reversed([base for base in cls.__mro__ if issubclass(base, BaseModel) and base.__module__.startswith("chiron.")]):
        for name, words in _field_docs(base).items():
            if name in schema.get("properties", {}):
                schema["properties"][name]["description"] = words


def _field_docs(cls: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field. A class without source, such as one made by ``create_model``, has none."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - the source of a class
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr)):
            continue
        if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            docs[field.target.id] = " ".join(below.value.value.split()).replace("``", "`")
    return docs
