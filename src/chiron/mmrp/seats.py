"""Author and reader as a build asks them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.mics.team import Seat
from chiron.mmrp.config import BuildFile
from chiron.mmrp.prompts import BuildPrompts
from chiron.models.assembly import build_endpoints
from chiron.models.call import Call, Message, Role
from chiron.models.config import max_tokens_of
from chiron.models.desk import Endpoint
from chiron.models.offline.catalogue import Catalogue
from chiron.models.pictures import PictureStore


@dataclass(frozen=True)
class Seats:
    """Who is asked what."""

    config: BuildFile
    prompts: BuildPrompts
    endpoints: dict[str, Endpoint]
    pictures: PictureStore
    author: Seat
    reader: Seat | None

    @classmethod
    def of(cls, config: BuildFile, cases: Path, *, need_reader: bool) -> "Seats":
        """Check prompts, keys and embedded models before anything is paid for.

        Raises:
            InputError: one is missing, or there is no reader where one is needed.
        """
        if need_reader and config.build.reader is None:
            raise InputError("'chiron build text' needs build.reader: a model that answers every question with the case and without it")
        prompts = BuildPrompts.load({name: Path(path) for name, path in config.build.prompts.items()})
        pictures = PictureStore()
        models = config.build_models()
        endpoints = build_endpoints(models, pictures=pictures, catalogue=lambda: Catalogue.beside(cases))
        limits = config.build.max_tokens

        def seat(name: str, limit: int) -> Seat:
            return Seat(name, endpoints[name].provider.identity, max_tokens_of(config.models[name], limit))

        reader = seat(config.build.reader, limits.reader) if config.build.reader is not None else None
        return cls(config, prompts, endpoints, pictures, seat(config.build.author, limits.author), reader)

    def call(self, role: Role, messages: tuple[Message, ...], *, draw: int = 0) -> Call:
        """What author or reader is asked."""
        seat = self.author if role == "author" else self.reader
        assert seat is not None  # noqa: S101 - who has no reader asks none
        build = self.config.build
        temperature = build.author_temperature if role == "author" else build.reader_temperature
        return Call(role, seat.name, seat.identity, messages, temperature, seat.max_tokens, draw)

    def models(self) -> Mapping[str, str]:
        """What answers, by role, for a row's provenance."""
        return {role: seat.identity for role, seat in (("author", self.author), ("reader", self.reader)) if seat is not None}

    def identity(self) -> dict[str, Any]:
        """What of this results depend on."""
        named = {role: [s.name, s.identity, s.max_tokens] for role, s in (("author", self.author), ("reader", self.reader)) if s}
        build = self.config.build
        return {
            **named,
            "temperatures": {"author": build.author_temperature, "reader": build.reader_temperature},
            "seed": build.seed,
            "prompts": self.prompts.hashes(),
        }
