"""Read a configuration file: models, and one section per job. Errors name the location and suggest the nearest known key."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar, Union, get_args, get_origin

from pydantic import Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from chiron.client.config import ModelConfig, ProviderConfig, Refused, Strict, prompt_file
from chiron.client.provider import BUILT_IN, config_types
from chiron.errors import InputError
from chiron.terminal import printable
from chiron.yaml_file import YamlPositions, read_yaml

SECTIONS: Final = ("search", "build", "evaluation")
"""Sections of a configuration file. One file can serve every command; each reads ``models`` and its own section."""
_MOST_FAULTS = 20
"""Maximum number of faults in one message."""


class ConfigFile(Strict):
    """Content of every configuration file. Each command's own class adds its section. Checks raise ``ValueError``, for validators."""

    models: dict[str, ModelConfig]

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        for name in self.models:
            if printable(name) != name or not name.strip() or len(name) > 200:
                raise ValueError(f"models: '{printable(name)[:200]}' is not a valid name: use up to 200 visible characters")
        for place, text in _texts(self.model_dump()):
            if any("\ud800" <= c <= "\udfff" for c in text):  # the value is not shown: it may be a secret
                raise ValueError(
                    f"{printable(place)} contains half a character (a lone surrogate), which cannot be stored or sent: remove it"
                )
        return self

    def need_known(self, named: list[tuple[str, str]]) -> None:
        """Check that every model in (place, model name) pairs is defined under ``models``."""
        unknown = [(place, name) for place, name in named if name not in self.models]
        if unknown:
            faults = [f"{place} names '{name}', which is not defined under models{nearest(name, self.models)}" for place, name in unknown]
            raise ValueError("; ".join(faults))

    def need_prices(self, models: Mapping[str, ProviderConfig]) -> None:
        """Check that every one of these models has a price, as a budget requires."""
        for name, model in models.items():
            if model.lacks_price():
                raise ValueError(
                    f"a budget needs prices: models.{name} has none; add price: {{input: ..., output: ...}} (USD per million tokens)"
                )


Schema = TypeVar("Schema", bound=ConfigFile)


def read_config(path: Path | str) -> dict[str, Any]:
    """Read a configuration file without validating it.

    Raises:
        InputError: the file cannot be read, or is not a mapping.
    """
    data = read_yaml(Path(path), "configuration", hint=": 'chiron init' writes an example")
    if not isinstance(data, dict):
        raise InputError(f"configuration {path} is empty or not a mapping: 'chiron init' writes an example")
    return data


def validate(schema: type[Schema], data: dict[str, Any], *, origin: Path) -> Schema:
    """Validate the content of a configuration file. Checkpoint paths are resolved relative to the file.

    Raises:
        InputError: a value is invalid; the message gives its location and, for a misspelled key, the nearest known one.
    """
    others = [name for name in SECTIONS if name not in schema.model_fields]
    models = data.get("models")
    sections = models.values() if isinstance(models, dict) else ()
    full = with_providers(schema, [str(section.get("provider")) for section in sections if isinstance(section, dict)])
    try:
        config = full.model_validate({key: value for key, value in data.items() if key not in others})
    except ValidationError as error:
        raise InputError(f"configuration {origin}{explain(full, error, origin)}") from None
    return config.model_copy(update={"models": {name: _beside(name, model, origin) for name, model in config.models.items()}})


def with_providers(schema: type[Schema], named: Iterable[str]) -> type[Schema]:
    """Return a schema, extended by those of the named providers that other packages add.

    Raises:
        InputError: a provider cannot be loaded.
    """
    types = config_types(named)
    if len(types) == len(BUILT_IN):
        return schema
    entry: Any = Annotated[Union[tuple(types.values())], Field(discriminator="provider")]  # noqa: UP007 - the types are values
    field: Any = (dict.__class_getitem__((str, entry)), ...)
    return create_model(schema.__name__, __base__=schema, models=field)


def files_beside(files: Mapping[str, str], origin: Path, place: str) -> dict[str, str]:
    """Resolve the file paths in a configuration, relative to the configuration file.

    Raises:
        InputError: a path is invalid.
    """
    try:
        return {name: str(prompt_file(file, origin.parent)) for name, file in files.items()}
    except InputError as error:
        raise InputError(f"configuration {origin}{_at(YamlPositions(origin).find(place))}: {place}: {error}") from error


def nearest(word: str, known: Any) -> str:
    """Return ``; did you mean 'x'?`` if a known word is similar, else an empty string."""
    found = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def unknown_name(kind: str, name: str, known: Any, advice: str) -> str:
    """Return that a name is unknown, a similar known one if there is any, and the advice."""
    near = nearest(name, known)
    return f"unknown {kind} '{name}'{near}{'' if near else ':'} {advice}"


def _beside(name: str, model: ProviderConfig, origin: Path) -> ProviderConfig:
    try:
        return model.with_paths_from(origin.parent)
    except InputError as error:
        where = _at(YamlPositions(origin).find(f"models.{name}"))
        raise InputError(f"configuration {origin}{where}: models.{name}.{error}") from error


def _providers(schema: type[Strict]) -> dict[str, type[Strict]]:
    """Return the configuration class of each provider in a schema."""
    union = get_args(get_args(schema.model_fields["models"].annotation)[1])[0]
    return {get_args(cls.model_fields["provider"].annotation)[0]: cls for cls in get_args(union)}


def _texts(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a configuration with its location."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            where = f"{place}.{key}" if place else str(key)
            yield from _texts(inner, where)
            yield where, str(key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, place)


def explain(schema: type[Strict], error: ValidationError, origin: Path) -> str:
    """Describe every fault of a file, in one line that follows its name. Reads it again for the line and column of each fault."""
    faults = error.errors(include_url=False)
    unknown = {fault["loc"]: _nearest_known(schema, fault["loc"]) for fault in faults if fault["type"] == "extra_forbidden"}
    meant = {(*loc[:-1], known) for loc, known in unknown.items() if known is not None}
    # A misspelled key is one fault: do not also report it as missing.
    shown = [fault for fault in faults if not (fault["type"] == "missing" and fault["loc"] in meant)]
    positions = YamlPositions(origin)
    messages = [(_position(schema, fault, positions), _in_words(schema, fault, unknown)) for fault in shown[:_MOST_FAULTS]]
    if len(shown) == 1:
        where, words = messages[0]
        return f"{_at(where)}: {words}"
    listed = "; ".join(f"({number}) {where}{': ' if where else ''}{words}" for number, (where, words) in enumerate(messages, 1))
    return f" has {len(shown)} errors: {listed}" + ("; and more" if len(shown) > _MOST_FAULTS else "")


_LEADING_PLACE = re.compile(r"(?:Value error, )?([^\s:;,']+)")
"""The place that a validator's message begins with, such as ``search.judge names ...`` or ``base_url must ...``."""


def _at(where: str) -> str:
    return f", {where}" if where else ""


def _place(schema: type[Strict], loc: tuple[int | str, ...]) -> str:
    """Join a location with dots. Pydantic adds a union's tag to it as if it were a key, but the file does not contain it."""
    tags = _providers(schema) if "models" in schema.model_fields else ()
    return ".".join(str(p) for i, p in enumerate(loc) if not (loc[0] == "models" and i == 2 and p in tags))


def _position(schema: type[Strict], fault: ErrorDetails, positions: YamlPositions) -> str:
    place = _place(schema, fault["loc"])
    if fault["type"] == "union_tag_invalid":
        return positions.find(f"{place}.provider")
    if leading := _LEADING_PLACE.match(fault["msg"]):
        inner = f"{place}.{leading[1]}" if place else leading[1]
        if positions.contains(inner):
            place = inner
    return positions.find(place, key=fault["type"] == "extra_forbidden")


def _in_words(schema: type[Strict], fault: ErrorDetails, unknown: Mapping[tuple[int | str, ...], str | None]) -> str:
    place = _place(schema, fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = unknown[fault["loc"]]
        return f"unknown key '{place}'; " + (
            f"did you mean '{known}'?" if known is not None else f"choose one of {', '.join(_known_keys(schema, fault['loc']))}"
        )
    if fault["type"] == "union_tag_invalid":
        tag, known_tags = fault["ctx"]["tag"], list(_providers(schema))
        return f"{place}: unknown provider '{tag}'" + (nearest(tag, known_tags) or f"; choose one of {', '.join(known_tags)}")
    refused = fault.get("input")
    why = refused.why if isinstance(refused, Refused) else fault["msg"]
    message = f"{place}: {why}" if place else why
    return message.replace("Value error, ", "")


def _nearest_known(schema: type[Strict], loc: tuple[int | str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(str(loc[-1]), _known_keys(schema, loc), n=1, cutoff=0.5)), None)


def _known_keys(schema: type[Strict], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed at the end of ``loc``. At the top level, these include the sections of other commands."""
    if len(loc) == 1:
        return list(dict.fromkeys((*schema.model_fields, *(SECTIONS if "models" in schema.model_fields else ()))))
    if len(loc) > 2 and loc[0] == "models":
        schema, loc = _providers(schema)[str(loc[2])], loc[3:]
    for part in (part for part in loc[:-1] if not isinstance(part, int)):
        field = schema.model_fields.get(str(part))
        inner = _schema_in(field.annotation) if field is not None else None
        if inner is None:
            break
        schema = inner
    return list(schema.model_fields)


def _schema_in(annotation: Any) -> type[Strict] | None:
    if get_origin(annotation) is None:
        return annotation if isinstance(annotation, type) and issubclass(annotation, Strict) else None
    if get_origin(annotation) is Annotated:
        return _schema_in(get_args(annotation)[0])
    return next((found for part in get_args(annotation) if (found := _schema_in(part)) is not None), None)
