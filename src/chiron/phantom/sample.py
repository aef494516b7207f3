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
from chiron.phantom.drawing import MODALITIES, draw
from chiron.phantom.world import COMBINATIONS, Attributes, World

_WORDS, _PICTURES, _LESIONS = range(3)  # independent generators from one seed


@dataclass(frozen=True)
class SyntheticCase:
    """A synthetic case, and what is needed to draw it."""

    case: Case
    attributes: Attributes
    """True attributes, also in the case's ``meta["attributes"]``."""
    modality: str
    seed: tuple[int, ...]
    """Seed of the generator that draws the images."""
    size: int
    """Side of the images in pixels."""

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each image's path, as in the case, and its tones, shape (size, size)."""
        for view, path in enumerate(self.case.images):
            rng = np.random.default_rng(self.seed)
            yield path, draw(self.modality, self.attributes, rng, self.size, view=view)


def generate_case(
    world: World,
    index: int,
    *,
    seed: int,
    size: int,
    among: Sequence[Attributes] = COMBINATIONS,
    modalities: Sequence[str] = MODALITIES,
    name: str = "phantom",
) -> SyntheticCase:
    """Generate the case with an index. It depends only on the arguments.

    Modalities alternate from case to case. Every ``len(among)`` cases, each combination of attributes in ``among`` occurs once. About
    one case in four has two images.

    Args:
        world: maps attributes to the answer.
        index: of the case, from 0.
        seed: of the series of cases, not negative.
        size: side of its images in pixels.
        among: the combinations of attributes that occur.
        modalities: names of the modalities that take turns.
        name: prefix of its id.
    """
    place = wording.PLACES[modality := modalities[index % len(modalities)]]
    block, position = divmod(index, len(among))
    shuffled = np.random.default_rng([seed, block, _LESIONS]).permutation(len(among))
    attributes = among[shuffled[position]]
    rng = np.random.default_rng([seed, index, _WORDS])
    complaint = wording.choose(place.complaints, rng)
    age = int(rng.integers(complaint.youngest, complaint.oldest + 1))
    sex = wording.choose(place.sexes, rng)
    images = 2 if rng.random() < 0.25 else 1
    case_id = f"{name}-{index:06d}"
    case = Case(
        id=case_id,
        question=wording.choose(wording.QUESTIONS, rng),
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
"""Minimum side in pixels; below it, a small lesion's margin is not visible."""
LARGEST = 4096
"""Maximum side in pixels, larger than any radiograph: a mistyped size must not fill the memory."""


@dataclass(frozen=True)
class Sample:
    """Files of a written sample."""

    cases: Path
    """JSONL, one case per line in the tidy format. The truth is under ``attributes``."""
    images: Path
    """Folder that the cases' image paths are relative to."""
    textbook: Path
    """JSONL, one rule of the world per line (108 lines): ``answer``, ``text`` and ``attributes``."""
    count: int
    """Number of cases."""


def write_sample(directory: Path, *, count: int = 24, seed: int = 0, size: int = 256, world_seed: int = 0) -> Sample:
    """Generate synthetic cases and write them: ``cases.jsonl``, ``images/`` and ``textbook.jsonl``.

    The same arguments write the same bytes (with the same numpy and pillow), and a case does not depend on ``count``. Every file is
    written atomically, ``cases.jsonl`` last, so if it exists, all files that it names exist. A rerun with the same arguments changes
    nothing.

    Args:
        directory: created if missing.
        count: number of cases, at least 1. The first 108 show each combination of attributes once, and so on.
        seed: of the series of cases. Another seed gives other cases of the same world, with the same ids.
        size: side of the images in pixels, 32 to 4096. From 64 up, every attribute is visible.
        world_seed: of the table of diagnoses.

    Raises:
        InputError: an argument is out of range, the directory is not writable, or it contains another sample.
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
    """Draw the cases' images into a folder, each written atomically.

    Raises:
        InputError: the folder is not writable.
        DiskError: the disk is full.
    """
    with _disk_errors(images):
        for casting in castings:
            for path, tones in casting.pictures():
                _write(images / path, _png(tones))


def write_textbook(world: World, path: Path) -> None:
    """Write a world's rules, one per line: ``answer``, ``text`` and ``attributes``.

    Raises:
        InputError: it cannot be written.
        DiskError: the disk is full.
    """
    entries = ({"answer": r.diagnosis, "text": wording.rule(r.attributes), "attributes": r.attributes.to_record()} for r in world.rules())
    with _disk_errors(path.parent):
        _write(path, _jsonl(entries))


def _check(*, count: int, seed: int, size: int, world_seed: int) -> None:
    lowest = {"count": (count, 1), "size": (size, SMALLEST), "seed": (seed, 0), "world_seed": (world_seed, 0)}
    for name, (value, least) in lowest.items():
        if value < least:
            raise InputError(f"{name} is {value}, but a sample needs at least {least}: give a {name} of {least} or more")
    if size > LARGEST:
        raise InputError(f"size is {size}, but an image has at most {LARGEST} pixels a side: give a size of {LARGEST} or less")


def _jsonl(records: Iterator[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _png(tones: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    # Noise hardly compresses: a higher level takes several times as long and saves a few percent.
    Image.fromarray(tones).save(buffer, format="PNG", compress_level=2)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
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
