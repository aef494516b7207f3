"""Check that a row has one image mark per image, and none in assistant turns."""

from collections.abc import Iterator

from chiron.cases.image_marks import IMAGE_MARK
from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield marks that do not match the row's images."""
    marks = sum(turn.text.count(IMAGE_MARK) for turn in row.turns if turn.role == "user")
    if marks != len(row.images):
        yield Finding("image_marks", row.id, f"{marks} {IMAGE_MARK} marks for {len(row.images)} images")
    for turn in row.turns:
        if turn.role != "user" and IMAGE_MARK in turn.text:
            yield Finding("image_marks", row.id, f"a mark {IMAGE_MARK} in the {turn.role} turn")
            return


CHECKS = (Check("image_marks", "Image marks that do not match the images", 0.0, look),)
