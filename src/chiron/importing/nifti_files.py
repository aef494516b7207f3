"""Group the NIfTI and Analyze files of a folder by patient, and recognize label maps."""

import re
from collections.abc import Sequence
from pathlib import Path

_SUFFIX = re.compile(r"\.(?:nii|hdr)(?:\.gz)?\Z", re.IGNORECASE)
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


def is_volume(path: Path) -> bool:
    """Return whether a file name is that of a NIfTI or Analyze volume. In a ``.hdr``/``.img`` pair, the header counts as the volume."""
    return _SUFFIX.search(path.name) is not None


def lacks_header(path: Path) -> bool:
    """Return whether a file holds the voxels of a pair whose header is missing."""
    return _lacks_other(path, "img", "hdr")


def lacks_voxels(path: Path) -> bool:
    """Return whether a file is the header of a pair whose voxels are missing."""
    return _lacks_other(path, "hdr", "img")


def _lacks_other(path: Path, own: str, other: str) -> bool:
    match = re.search(rf"\.{own}(?:\.gz)?\Z", path.name, re.IGNORECASE)
    if match is None:
        return False
    stem = path.name[: match.start()]
    return not any(path.with_name(f"{stem}.{suffix}").is_file() for suffix in (other, other.upper(), f"{other}.gz"))


def stem_of(path: Path) -> str:
    """Return a volume's file name without suffixes such as ``.nii.gz``."""
    return _SUFFIX.sub("", path.name)


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
