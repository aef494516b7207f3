"""Generate synthetic cases and write samples of them: cases, images, textbook."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.cases.case import Case
from chiron.errors import DiskError, InputError
from chiron.phantom import wording
from chiron.phantom.anatomy import PLACES
from chiron.phantom.drawing import MODALITIES, draw
from chiron.phantom.world import COMBINATIONS, Attributes, Rule, World

_WORDS, _PICTURES, _LESIONS = range(3)  # of one seed, generators that know nothing of each other


@dataclass(frozen=True)
class SyntheticCase:
    """A case and what is needed to draw it."""

    case: Case
    attributes: Attributes
    """The truth. The case's ``meta["attributes"]`` says it too."""
    modality: str
    seed: tuple[int, ...]
    """Of the generator that draws the pictures."""
    size: int
    """Pixels a side."""

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Each image's path, as the case names it, and its tones, shape (size, size)."""
        for view, path in enumerate(self.case.images):
            rng = np.random.default_rng(self.seed)
            yield path, draw(self.modality, self.attributes, rng, self.size, view=view)


def generate_case(
    world: World, index: int, *, seed: int, size: int, among: Sequence[Attributes] = COMBINATIONS, name: str = "phantom"
) -> SyntheticCase:
    """The case of that number. It depends on nothing but the arguments.

    Modalities take turns from case to case; every ``len(among)`` cases, each of these combinations of attributes occurs once; one case
    in four or so has two images.

    Args:
        world: what leads from attributes to the answer.
        index: of the case, from 0.
        seed: of the series of cases, not negative.
        size: pixels a side of its images.
        among: the combinations of attributes that occur.
        name: what its id begins with.
    """
    place = PLACES[modality := MODALITIES[index % len(MODALITIES)]]
    block, position = divmod(index, len(among))
    shuffled = np.random.default_rng([seed, block, _LESIONS]).permutation(len(among))
    attributes = among[shuffled[position]]
    rng = np.random.default_rng([seed, index, _WORDS])
    complaint = place.complaints[int(rng.integers(len(place.complaints)))]
    age = int(rng.integers(complaint.youngest, complaint.oldest + 1))
    sex = place.sexes[int(rng.integers(len(place.sexes)))]
    images = 2 if rng.random() < 0.25 else 1
    case_id = f"{name}-{index:06d}"
    case = Case(
        id=case_id,
        question=wording.question(rng),
        answer=world.diagnose(attributes),
        images=tuple(f"{case_id}/{modality.lower()}_group1/{view}.png" for view in range(images)),
        history=wording.history(complaint, age, sex, rng),
        findings=wording.findings(attributes, place, images, rng),
        age=f"{age} years",
        sex=sex,
        modality=modality,
        body_system=place.body_system,
        meta=MappingProxyType({"attributes": attributes.to_record(), "image_size": size}),
    )
    return SyntheticCase(case, attributes, modality, (seed, index, _PICTURES), size)


SMALLEST = 32
"""Pixels a side, below which a small lesion's margin cannot be told."""
LARGEST = 4096
"""Pixels a side, more than any radiograph has: a slip of the hand must not fill the memory."""


@dataclass(frozen=True)
class Sample:
    """What was written."""

    cases: Path
    """JSONL, a case a line in the tidy format. The truth stands under ``attributes``."""
    images: Path
    """The folder that the cases' image paths are relative to."""
    textbook: Path
    """JSONL, one rule of the world a line: ``answer``, ``text`` and ``attributes``, 36 lines."""
    count: int
    """Cases."""


def write_sample(directory: Path, *, count: int = 24, seed: int = 0, size: int = 256, world_seed: int = 0) -> Sample:
    """Draw cases of the miniature world and write them: ``cases.jsonl``, ``images/`` and ``textbook.jsonl``.

    The same arguments write the same bytes (given the same numpy and pillow), and a case does not depend on how many there
    are. Every file appears whole or not at all, ``cases.jsonl`` last: where it stands, all that it names stands too. Run
    again with the same arguments it changes nothing.

    Args:
        directory: made if it does not exist.
        count: cases, at least 1. The first 36 show each combination of attributes once, and so on.
        seed: of the series of cases. Another seed gives other cases of the same world, under the same ids.
        size: pixels a side of the images, 32 to 4096. From 64 up every attribute can be read off them.
        world_seed: of the table of diagnoses.

    Raises:
        InputError: an argument is out of range, the directory cannot be written to, or it holds another sample already.
        DiskError: the disk is full.
    """
    _check(count=count, seed=seed, size=size, world_seed=world_seed)
    world = World(world_seed)
    castings = [generate_case(world, index, seed=seed, size=size) for index in range(count)]
    sample = Sample(directory / "cases.jsonl", directory / "images", directory / "textbook.jsonl", count)
    cases = _jsonl(casting.case.to_record() for casting in castings)
    with _disk_errors(directory):
        if sample.cases.exists() and sample.cases.read_bytes() != cases:
            raise InputError(f"{sample.cases} already holds other cases: name another folder, or remove that one first")
        write_castings(castings, sample.images)
        write_textbook(world, sample.textbook)
        _write(sample.cases, cases)
    return sample


def write_castings(castings: Iterable[SyntheticCase], images: Path) -> None:
    """Draw the cases' images into a folder, each whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
        DiskError: the disk is full.
    """
    with _disk_errors(images):
        for casting in castings:
            for path, tones in casting.pictures():
                _write(images / path, _png(tones))


def write_textbook(world: World, path: Path) -> None:
    """Write a world's rules, one a line: ``answer``, ``text`` and ``attributes``.

    Raises:
        InputError: it cannot be written.
        DiskError: the disk is full.
    """
    with _disk_errors(path.parent):
        _write(path, _jsonl(_entry(r) for r in world.rules()))


def _check(*, count: int, seed: int, size: int, world_seed: int) -> None:
    lowest = {"count": (count, 1), "size": (size, SMALLEST), "seed": (seed, 0), "world_seed": (world_seed, 0)}
    for name, (value, least) in lowest.items():
        if value < least:
            raise InputError(f"{name} is {value}, but a sample needs at least {least}: give a {name} of {least} or more")
    if size > LARGEST:
        raise InputError(f"size is {size}, but an image has at most {LARGEST} pixels a side: give a size of {LARGEST} or less")


def _entry(rule: Rule) -> dict[str, Any]:
    return {"answer": rule.diagnosis, "text": wording.rule(rule.attributes), "attributes": rule.attributes.to_record()}


def _jsonl(records: Iterator[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _png(tones: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    # Noise hardly compresses: a higher level costs several times the time for some hundredths of the bytes.
    Image.fromarray(tones).save(buffer, format="PNG", compress_level=2)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, or leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskError(f"{directory}: the disk is full: free some space and run again") from error
        where = error.filename or directory
        raise InputError(f"{where} cannot be written ({error.strerror}): name a folder that you may write to") from error
