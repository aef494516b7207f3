"""Import NIfTI volumes as axial slices in radiological view: the patient's right on the left, front at the top."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from chiron.cases.case import Case
from chiron.cases.images import MAX_PIXELS
from chiron.cases.modalities import Modality, modality_of
from chiron.extras import need
from chiron.importing.dicom_pixels import spread, without_padding
from chiron.importing.phi_filter import Pseudonyms, find_identifying, folder_name, identifiers
from chiron.importing.questions import load_questions
from chiron.importing.source import (
    Draft,
    DraftGroup,
    DraftImage,
    ImportOptions,
    LeaveOut,
    LeftOut,
    SourceReading,
    Why,
    files_under,
    is_volume,
    stem_of,
)
from chiron.importing.writer import chosen, png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
"""Matches a subject folder of the Brain Imaging Data Structure (BIDS)."""
_CONTAINER = re.compile(
    r"(?:images?|labels?)(?:tr|ts|val)?|data|dataset|nii|niftis?|volumes?|scans?|cases|patients|subjects|train(?:ing)?|test(?:ing)?"
    r"|val(?:idation)?|raw(?:data)?|masks?|segmentations?|derivatives",
    re.IGNORECASE,
)
"""Matches a folder named after its contents and not after a patient."""
_LABELS = re.compile(r"labels?(?:tr|ts|val)?|masks?|seg(?:mentation)?s?|segs|rois?|annotations?|ground[_ -]?truths?|gts?", re.IGNORECASE)
_LABEL_PART = re.compile(r"seg(?:mentation)?s?|masks?|labels?|rois?|gt|dseg|probseg|aseg|aparc|brainmask|lesionmask", re.IGNORECASE)
_SEQUENCE = re.compile(
    r"(?:t1|t2|t1w|t2w|t2star|t1c|t1ce|t1gd|t1n|t2f|pd|flair|dwi|adc|swi|asl|bold|dti|mr|mri|mra|ct|cta|cbct|pet|pt|suv|spect|us|xa)-?\d*",
    re.IGNORECASE,
)
"""Matches a modality or an MRI sequence."""
_SCAN = re.compile(
    r"(?:image|img|vol|volume|scan|series|ser|se|run|echo|acq|part|phase|ses|session|visit|tp|timepoint|time|date|day|study|exam|stack"
    r"|slab|anat|func|perf|fmap|rec|dir|b|bval|slice|frame|venous|arterial|portal|delayed|nc|ce|axial|sagittal|coronal|ax|sag|cor|tra"
    r"|left|right|pre|post|baseline|followup|fu|mprage|space|trace|tof|gre|tse|tirm|stir|localizer|dixon|water|fat)-?\d*",
    re.IGNORECASE,
)
"""Matches other name parts that identify a scan and not a patient."""
_DATE = re.compile(r"(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d")
_CHANNEL = re.compile(r"_000\d\Z")
"""Channel of a volume, in nnU-Net's naming."""


def _lacks_other(path: Path, own: str, other: str) -> bool:
    """Return whether a file is one of a pair, ``.hdr`` and ``.img``, whose other one is missing."""
    match = re.search(rf"\.{own}(?:\.gz)?\Z", path.name, re.IGNORECASE)
    if match is None:
        return False
    stem = path.name[: match.start()]
    return not any(path.with_name(f"{stem}.{suffix}").is_file() for suffix in (other, other.upper(), f"{other}.gz"))


def is_label_map(place: Path) -> bool:
    """Return whether the path or name indicates a segmentation: ``labelsTr/x.nii.gz``, ``Case_7_seg.nii.gz``."""
    if any(_LABELS.fullmatch(folder) for folder in place.parts[:-1]):
        return True
    return any(_LABEL_PART.fullmatch(part) for part in re.split(r"[_.\s-]+", stem_of(place)))


def by_patient(places: Sequence[Path]) -> dict[str, list[Path]]:
    """Group paths relative to the source by patient, in order.

    A top-level file is one patient; channels of one volume (``case_0000``, ``case_0001``) are grouped. A top-level folder is one patient,
    unless it is a container such as ``imagesTr`` or its files have numbered patient names.
    """
    crowded = _crowded(places)
    patients: dict[str, list[Path]] = {}
    for place in places:
        subject = next((part for part in place.parts[:-1] if _SUBJECT.fullmatch(part)), None)
        patients.setdefault(subject or _patient(place, crowded), []).append(place)
    return patients


def _patient(place: Path, crowded: set[Path]) -> str:
    folder, containers = Path(), list[str]()
    for part in place.parts[:-1]:
        above, folder = folder, folder / part
        if not (_CONTAINER.fullmatch(part) or _SEQUENCE.fullmatch(part) or folder in crowded):
            return "/".join([*containers, _subject(part) if above in crowded and _subject(part) else part])
        # Folders for each modality contain the same patients.
        containers += [] if _SEQUENCE.fullmatch(part) else [part]
    stem = _CHANNEL.sub("", stem_of(place))
    shared = folder in crowded or _SEQUENCE.fullmatch(folder.name)
    return "/".join([*containers, _subject(stem) if shared and _subject(stem) else stem])


def _crowded(places: Sequence[Path]) -> set[Path]:
    """Return folders that hold several patients, recognized by names that differ in a patient number."""
    names: dict[tuple[Path, str], set[str]] = {}
    for place in places:
        for depth, part in enumerate(place.parts[1:], start=1):
            name = _CHANNEL.sub("", stem_of(place)) if depth == len(place.parts) - 1 else part
            subject = _subject(name)
            if shape := _shape(subject):
                names.setdefault((Path(*place.parts[:depth]), shape), set()).add(subject)
    return {folder for (folder, _), subjects in names.items() if len(subjects) > 1}


def _subject(name: str) -> str:
    """Remove the parts of a name that identify a scan: ``IXI002-Guys-0828-T1`` becomes ``ixi002-guys-0828``, ``ses-1`` becomes empty."""
    parts = [part for part in re.split(r"[_.\s-]+", _DATE.sub("", name)) if part]
    kept = [part.casefold() for part in parts if not (_SEQUENCE.fullmatch(part) or _SCAN.fullmatch(part) or _LABEL_PART.fullmatch(part))]
    return "-".join(kept)


def _shape(subject: str) -> str:
    """Return a patient name with its number replaced: ``case-#`` for ``case-7``. Empty if the name contains no patient number."""
    head, *rest = subject.split("-")
    if head.isdigit():
        return "#" if len(head) >= 3 else ""  # shorter numbers are usually series numbers
    if not any(c.isdigit() for c in head):
        head = "-".join([head, *rest[:1]])
    return re.sub(r"\d+", "#", head) if any(c.isdigit() for c in head) else ""


NO_ORIENTATION = "volumes whose header has no orientation code: left and right are guessed"
LABEL_MAP = "it is a label map (a segmentation), not an image"
_INTENT_LABEL = 1002
_MAX_LABEL = 20
"""Highest label in a volume that is recognized as a label map by its values alone."""
_VOLUMES = 4
"""Maximum volumes in a file that become one group each (echoes, phases). A longer file is a time series; only the first is used."""


def read_nifti(source: Path, options: ImportOptions, pseudonyms: Pseudonyms, skip: Path | None = None) -> SourceReading:
    """Read draft cases from a NIfTI file or folder, one per patient as grouped by :func:`by_patient`.

    Raises:
        InputError: nibabel is not installed, or the questions cannot be read.
    """
    need("nibabel", "NIfTI")
    questions = load_questions(options) if options.questions is not None else None
    root = source if source.is_dir() else source.parent
    found = list(files_under(source, skip)) if source.is_dir() else [source]
    volumes, left = _sorted(found, root)
    cases = {name: [root / place for place in places] for name, places in by_patient(volumes).items()}
    question_notes: tuple[str, ...] = ()
    if questions is not None:
        studies = [(_keys(name, paths), None) for name, paths in cases.items()]
        questions.set_aside_ambiguous(studies)
        question_notes = questions.notes(studies)

    def items() -> Iterator[Draft | LeftOut]:
        yield from left
        for name, paths in cases.items():
            case_id = name if options.keep_ids else pseudonyms.name("case", name)
            texts = questions.of(_keys(name, paths), None) if questions is not None else []
            case = Case(id=case_id, question="", answer="", images=(), meta=MappingProxyType({"patient": pseudonyms.name("patient", name)}))
            groups, notes = _groups(paths, root, folder_name(case_id), options)
            known = frozenset() if options.keep_ids else identifiers(name)
            try:
                for number, text in enumerate(texts or [None], start=1):
                    asked = case if number == 1 else Case(f"{case_id}-{number}", "", "", (), meta=case.meta)
                    place = paths[0].relative_to(root).as_posix() + (f" with {text.place}" if text else "")
                    labeled, more = text.onto(asked) if text else (asked, ())
                    yield Draft(labeled, tuple(groups), place, known, (*notes, *more))
            except LeaveOut as reason:
                yield LeftOut(paths[0].relative_to(root).as_posix(), case_id, reason.why, str(reason))
        if questions is not None:
            yield from questions.unused()

    return SourceReading(items(), len(cases) + len(left), question_notes)


def _sorted(found: list[Path], root: Path) -> tuple[list[Path], list[LeftOut]]:
    """Split files into volumes, with paths relative to the root, and skipped files."""
    volumes, left = list[Path](), list[LeftOut]()
    for path in found:
        place = path.relative_to(root)
        if _lacks_other(path, "img", "hdr"):
            reason = f"it contains the voxels of a pair of files, but its header ({path.with_suffix('.hdr').name}) is missing: copy both"
            left.append(LeftOut(place.as_posix(), None, Why.IMAGE, reason))
        elif not is_volume(path):
            continue
        elif _lacks_other(path, "hdr", "img"):
            reason = f"it is the header of a pair of files, but its voxels ({path.with_suffix('.img').name}) are missing: copy both"
            left.append(LeftOut(place.as_posix(), None, Why.IMAGE, reason))
        elif is_label_map(place):
            left.append(LeftOut(place.as_posix(), None, Why.NO_IMAGE, LABEL_MAP))
        else:
            volumes.append(place)
    return volumes, left


def _keys(name: str, paths: list[Path]) -> set[tuple[str, str]]:
    return {("folder", name), ("folder", name.rpartition("/")[2]), *(("folder", path.name) for path in paths)}


def _groups(paths: list[Path], root: Path, under: str, options: ImportOptions) -> tuple[list[DraftGroup], list[str]]:
    groups: list[DraftGroup] = []
    notes: list[str] = []
    numbers: dict[str, int] = {}
    for path in paths:
        place = path.relative_to(root).as_posix()
        modality = modality_of(options.modality) if options.modality else _modality_of_name(stem_of(path))
        slug = modality.slug if modality else "image"
        about = {"modality": modality.name} if modality else {}
        try:
            volume = Volume.open(path)
        except LeaveOut as reason:
            groups.append(DraftGroup((DraftImage("-", partial(_refused, reason)),), place, needed=False))
            continue
        if not volume.oriented:
            notes.append(NO_ORIENTATION)
        volumes = volume.count if volume.count <= _VOLUMES else 1
        if volumes < volume.count:
            notes.append("time series of which only the first volume was imported")
        for number in range(volumes):
            numbers[slug] = numbers.get(slug, 0) + 1
            name = f"{slug}_group{numbers[slug]}"
            indices = chosen(volume.slices, options.slices)
            drawing = _Drawing(path, number, tuple(indices), hounsfield=None if modality is None else modality.name == "CT")
            pictures = tuple(DraftImage(f"{under}/{name}/{n}.png", partial(drawing.slice, i)) for n, i in enumerate(indices))
            where = place if volume.count == 1 else f"{place}, volume {number + 1}"
            groups.append(DraftGroup(pictures, where, needed=False, about={"group": name, **about, "slices": volume.slices}))
    return groups, notes


def _refused(reason: LeaveOut) -> bytes:
    raise reason


def _modality_of_name(stem: str) -> Modality | None:
    """Return the modality in a file name (``sub-01_T1w``, ``liver_ct``); None if there is no match or more than one."""
    if find_identifying(stem):
        return None
    found = {m for part in re.split(r"[_\W]+", stem) if part and (m := modality_of(part)) is not None}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Volume:
    """NIfTI file with its header read. Voxels are read when a slice is requested."""

    data: Any
    """nibabel's array proxy, which reads slices from disk."""
    axes: tuple[tuple[int, int], ...]
    """Array axis and direction (1 or -1) of left-right, back-front and foot-head."""
    zooms: tuple[float, ...]
    """Voxel size in mm along the same axes."""
    slices: int
    count: int
    """Number of volumes."""
    oriented: bool
    """Whether the header gives the orientation. Otherwise left and right are a guess."""

    @staticmethod
    def open(path: Path) -> "Volume":
        """Read a header.

        Raises:
            LeaveOut: the header is damaged, or the file holds no numeric volume.
        """
        nibabel = need("nibabel", "NIfTI")
        try:
            image = nibabel.load(path)
            shape = tuple(int(n) for n in image.shape)
            orientation = nibabel.io_orientation(image.affine) if len(shape) >= 3 else None
            zooms = tuple(float(z) for z in image.header.get_zooms()[:3]) if orientation is not None else ()
            kind = image.get_data_dtype().kind
            oriented, labels = _said(image.header)
        except Exception as error:
            # nibabel raises many exception types on damaged headers.
            raise LeaveOut(
                Why.IMAGE, f"not a readable NIfTI volume ({type(error).__name__}): the file is damaged, or of another kind"
            ) from error
        if len(shape) == 2 or orientation is None or orientation.shape != (3, 2) or min(shape, default=0) < 1:
            raise LeaveOut(Why.NO_IMAGE, f"its shape {'x'.join(map(str, shape))} is not a volume in space")
        if labels:
            raise LeaveOut(Why.NO_IMAGE, LABEL_MAP)
        if kind not in "iuf":
            raise LeaveOut(Why.NO_IMAGE, "its voxels are colors or complex numbers, not gray values: convert it to magnitudes or gray")
        if any(math.isnan(n) for pair in orientation for n in pair):
            raise LeaveOut(Why.IMAGE, "its header gives no orientation in space (no usable affine)")
        axes = [(0, 1)] * 3
        for axis, (world, direction) in enumerate(orientation):
            axes[int(world)] = (axis, int(direction))
        if max(shape[axes[0][0]], shape[axes[1][0]]) ** 2 > MAX_PIXELS:
            raise LeaveOut(Why.IMAGE, f"its slices are larger than {MAX_PIXELS // 10**6} megapixels: resample it")
        count = math.prod(shape[3:])
        return Volume(image.dataobj, tuple(axes), tuple(zooms[axis] for axis, _ in axes), shape[axes[2][0]], count, oriented)

    def axial(self, index: int, number: int) -> "NDArray[Any]":
        """Return slice ``index`` (from the feet) of volume ``number``: rows front to back, columns from the patient's right to left."""
        import numpy as np

        (across, rightward), (along, forward), (up, upward) = self.axes
        at = index if upward > 0 else self.slices - 1 - index
        picked: list[Any] = [slice(None)] * 3
        picked[up] = at
        rest = np.unravel_index(number, self.data.shape[3:]) if len(self.data.shape) > 3 else ()
        plane = np.asarray(self.data[(*picked, *(int(n) for n in rest))], dtype=np.float64)
        if across < along:
            plane = plane.T
        # At this point rows are back-front and columns left-right, each in the file's direction.
        return plane[:: -1 if forward > 0 else 1, :: -1 if rightward > 0 else 1]


def _said(header: Any) -> tuple[bool, bool]:
    """Return whether a header gives an orientation, and whether it declares a label map (intent code 1002)."""
    nibabel = need("nibabel", "NIfTI")
    if isinstance(header, nibabel.Nifti1Header):
        return bool(int(header["sform_code"]) or int(header["qform_code"])), int(header["intent_code"]) == _INTENT_LABEL
    # Analyze headers have no field for either; the other formats always give an orientation.
    return not isinstance(header, nibabel.AnalyzeHeader), False


class _Drawing:
    """Slices of one volume under a common window, computed on first use."""

    def __init__(self, path: Path, number: int, indices: tuple[int, ...], *, hounsfield: bool | None) -> None:
        self._path, self._number, self._indices, self._hounsfield = path, number, indices, hounsfield
        self._planes: dict[int, NDArray[np.float64]] | None = None

    def slice(self, index: int) -> bytes:
        """Render a slice as PNG.

        Raises:
            LeaveOut: the voxels cannot be read.
        """
        import numpy as np

        if self._planes is None:
            try:
                volume = Volume.open(self._path)
                # Read only the selected slices, so that memory use does not depend on the volume's size.
                planes = {i: volume.axial(i, self._number) for i in self._indices}
            except LeaveOut:
                raise
            except Exception as error:
                raise LeaveOut(
                    Why.IMAGE, f"its voxels cannot be read ({type(error).__name__}): the file is truncated or damaged"
                ) from error
            sample = np.concatenate([plane.ravel()[:: max(1, plane.size // 100_000)] for plane in planes.values()])
            _need_content(sample)
            inside = without_padding(sample, hounsfield=self._hounsfield)
            self._planes = {i: spread(plane, inside) for i, plane in planes.items()}
            self._aspect = volume.zooms[1] / volume.zooms[0] if min(volume.zooms[:2]) > 0 else 1.0
        shares = self._planes.pop(index)
        if not self._planes:
            self._planes = None
        return png(np.round(shares * 255).astype(np.uint8), self._aspect)


def _need_content(sample: "NDArray[np.float64]") -> None:
    """Check that a volume shows an image.

    Raises:
        LeaveOut: it is empty, constant, or holds labels instead of measured values.
    """
    import numpy as np

    finite = sample[np.isfinite(sample)]
    if not finite.size:
        raise LeaveOut(Why.IMAGE, "it is empty: all voxels are NaN or infinite")
    values = np.unique(finite)
    if values.size == 1:
        raise LeaveOut(Why.IMAGE, "it is blank: all of its voxels have the same value")
    small = values[0] == 0 and values[-1] <= _MAX_LABEL and np.array_equal(values, np.round(values))
    if small or np.array_equal(values, (0, 255)):
        raise LeaveOut(Why.NO_IMAGE, f"{LABEL_MAP}: its only values are {', '.join(f'{v:g}' for v in values[:8])}")
