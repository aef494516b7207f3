"""Write drafts as cases: screen their text, write their images, and record what is skipped."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from chiron.cases.case import Case
from chiron.cases.formats import LONG_TEXT, MAX_TEXT
from chiron.cases.images import ImageFolder, ImageProblem, check_bytes
from chiron.errors import DiskError, InputError
from chiron.importing.image_metadata import without_metadata
from chiron.importing.phi_filter import longest_text, screen
from chiron.importing.source import Draft, DraftGroup, DraftImage, LeaveOut, LeftOut, Why
from chiron.io import write_bytes, writing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_LISTED = 8


@dataclass
class CaseWriter:
    """Writer of the cases of one import."""

    images: Path
    """Output folder of the images."""
    allow_identifying: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    written: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of every image written."""
    _ids: dict[str, str] = field(default_factory=dict)

    def keep(self, items: Iterable[Draft | LeftOut]) -> Iterator[Case | None]:
        """Yield a case for each draft that can be written, and None for each skipped item, so that callers can count progress."""
        for item in items:
            if isinstance(item, LeftOut):
                self.left_out.append(item)
                yield None
                continue
            try:
                yield self._keep(item)
            except LeaveOut as reason:
                unsaid = reason.why is Why.IDENTIFYING and " in id, line" in str(reason)
                self.left_out.append(LeftOut(item.place, None if unsaid else item.case.id, reason.why, str(reason)))
                yield None

    def _keep(self, draft: Draft) -> Case:
        case = draft.case
        if case.id in self._ids:
            raise LeaveOut(Why.DUPLICATE, f"its id was already used by {self._ids[case.id]}: give each case its own id")
        name, text = longest_text(case)
        length = len(text.encode("utf-8", "replace"))
        if length > MAX_TEXT:
            raise LeaveOut(
                Why.RECORD, f"field '{name}' has {length:,} bytes, more than {MAX_TEXT:,}: shorten it to what belongs to the case"
            )
        identifying = screen(case, draft.known)
        if identifying and not self.allow_identifying:
            more = f" and {len(identifying) - _MAX_LISTED} more" if len(identifying) > _MAX_LISTED else ""
            listed = "; ".join(identifying[:_MAX_LISTED])
            raise LeaveOut(Why.IDENTIFYING, f"may identify the patient: {listed}{more} (fix the text, or use --allow-identifying)")
        kept, abouts = self._write_images(draft)
        if identifying:
            self.notes["cases imported although their text may identify the patient"] += 1
        if len(text) > LONG_TEXT:
            self.notes[f"cases with a text of more than {LONG_TEXT:,} characters, more than most models accept"] += 1
        self.notes.update(draft.notes)
        self._ids[case.id] = draft.place
        meta: dict[str, Any] = dict(case.meta)
        modality = case.modality
        if abouts:
            meta["series"] = abouts
            named = list(dict.fromkeys(about["modality"] for about in abouts if about.get("modality")))
            modality = modality or ", ".join(named) or None
        return replace(case, images=tuple(kept), modality=modality, meta=MappingProxyType(meta))

    def _write_images(self, draft: Draft) -> tuple[list[str], list[dict[str, Any]]]:
        names: list[str] = []
        abouts: list[dict[str, Any]] = []
        fresh: dict[str, str] = {}
        missed: list[LeftOut] = []
        try:
            for group in draft.groups:
                try:
                    written = self._write_group(group, fresh)
                except LeaveOut as reason:
                    if group.needed:
                        raise
                    missed.append(LeftOut(group.place, draft.case.id, reason.why, str(reason)))
                    continue
                names += [name for name in written if name not in names]
                if group.about is not None:
                    abouts.append({**group.about, "images": len(written)})
            _need_any(names, missed)
        except LeaveOut:
            for name in fresh:
                (self.images / name).unlink(missing_ok=True)
            raise
        self.left_out += missed
        self.written.update(fresh)
        return names, abouts

    def _need_free(self, name: str, digest: str, fresh: dict[str, str]) -> None:
        if self.written.get(name, fresh.get(name, digest)) != digest:
            raise LeaveOut(Why.DUPLICATE, f"another image has the name '{name}': give each case its own images")

    def _write_group(self, group: DraftGroup, fresh: dict[str, str]) -> list[str]:
        begun: dict[str, str] = {}
        try:
            for picture in group.pictures:
                source, data = _made(picture)
                digest = hashlib.sha256(data).hexdigest()
                self._need_free(picture.name, digest, fresh)
                if picture.name not in self.written and picture.name not in fresh:
                    begun[picture.name] = digest
                    _write(self.images / picture.name, data, digest)
                    if data is not source:
                        self.notes["images whose EXIF data or other metadata was removed"] += 1
        except LeaveOut:
            for name in begun:
                (self.images / name).unlink(missing_ok=True)
            raise
        fresh.update(begun)
        return [picture.name for picture in group.pictures]


def _made(picture: DraftImage) -> tuple[bytes, bytes]:
    """Return an image's bytes, first as the source has them, then without metadata.

    Raises:
        LeaveOut: the image cannot be produced, for any reason; one damaged file must not stop an import.
    """
    try:
        source = picture.data()
        return source, without_metadata(source)
    except (LeaveOut, InputError, DiskError):
        raise
    except Exception as error:
        raise LeaveOut(
            Why.IMAGE, f"it cannot be read ({type(error).__name__}): the file is damaged, or its kind is not supported"
        ) from error


def _need_any(names: list[str], missed: list[LeftOut]) -> None:
    """Raise an error for a case without images, with the only reason, or the first of several."""
    if names:
        return
    if not missed:
        raise LeaveOut(Why.NO_IMAGE, "no image")
    more = f" ({len(missed)} series, all unusable)" if len(missed) > 1 else ""
    raise LeaveOut(missed[0].why, f"{missed[0].reason}{more}")


def _write(path: Path, data: bytes, digest: str) -> None:
    """Write an image atomically; keep an identical existing one."""
    with writing(path):
        if path.is_file() and path.stat().st_size == len(data) and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data, prefix=".image.")


_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


def copied(folder: ImageFolder, name: str, called: str | None = None) -> Callable[[], bytes]:
    """Return a function that reads a source file and checks that it is inside the folder.

    Args:
        folder: folder that the file must be in.
        name: path in the folder.
        called: name for error messages, if the real one may identify the patient.
    """

    def data() -> bytes:
        try:
            return folder.check(name).path.read_bytes()
        except ImageProblem as problem:
            message = str(problem)
            if called is not None:
                for path in (os.path.realpath(folder.root / name) if "\0" not in name else name, name):
                    message = message.replace(path, called)
            raise LeaveOut(Why.IMAGE, message) from (None if called is not None else problem)

    return data


def suffix_of(data: bytes, name: str) -> str:
    """Return the file suffix for an image's bytes, after decoding them fully.

    Raises:
        LeaveOut: the bytes cannot be decoded.
    """
    try:
        return _SUFFIXES[check_bytes(data, name)]
    except ImageProblem as problem:
        raise LeaveOut(Why.IMAGE, str(problem)) from problem


def png(pixels: "NDArray[np.uint8]", aspect: float = 1.0) -> bytes:
    """Encode gray (rows, columns) or color (rows, columns, 3) pixels as PNG.

    Args:
        pixels: 8-bit values.
        aspect: pixel height divided by pixel width. If it differs from 1 by more than 1%, the shorter side is stretched, so that shapes
            keep their proportions.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if not 0.99 <= aspect <= 1.01 and 0.05 <= aspect <= 20:
        width, height = image.size
        size = (width, round(height * aspect)) if aspect > 1 else (round(width / aspect), height)
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


AT_MOST = 8
"""Default number of images of a series or volume."""


def chosen(count: int, every: int | None) -> list[int]:
    """Return ascending slice indices: every ``every``-th, or at most eight, evenly spaced. Both ends, often empty, are avoided."""
    if every is not None:
        return list(range((every - 1) // 2 if count > every else 0, count, every)) or [0][:count]
    if count <= AT_MOST:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * AT_MOST) for i in range(AT_MOST)]
