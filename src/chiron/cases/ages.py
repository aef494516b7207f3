"""Ages as they may be told: in years, and from ninety on as ``90+``, since there are few so old in one place."""

import re

_YEARS = re.compile(r"\s*(\d{1,3})(?:\.\d+)?\s*(?:y|yr|yrs|year|years|years? old|year-old|jahre?|ans|años)?\.?\s*", re.IGNORECASE)


def age_band(text: str) -> str:
    """``54`` and ``54 years`` as ``54 years``; ``93`` as ``90+``; what is no number of years as it is."""
    if (match := _YEARS.fullmatch(text)) is None:
        return text
    return years(int(match.group(1)))


def years(number: int) -> str:
    """A number of years in words."""
    if number >= 90:
        return "90+"
    return f"{number} year{'' if number == 1 else 's'}" if number >= 1 else "under 1 year"


MAX_YEARS = 115
"""A higher age is a placeholder, such as a birth date in 1900."""


def dicom_age(value: str) -> str | None:
    """Convert a DICOM age string such as ``045Y``, ``018M``, ``003W``, ``010D``; None if it is not an age.

    ``000Y`` is a placeholder: the age of an infant is given in days, weeks or months.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY])\s*", value, re.IGNORECASE)
    if match is None or (match.group(2).upper() == "Y" and not 1 <= int(match.group(1)) <= MAX_YEARS):
        return None
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[match.group(2).upper()]
    return years(int(int(match.group(1)) * days / 365.25 + 1e-9))
