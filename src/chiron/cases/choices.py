"""Multiple-choice questions: parse options, add them to the question, and convert the answer to words."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from chiron.conversation.options import LETTERS

_LONGEST = 100_000
"""Maximum characters of options given as one text. A longer text is not a list of options."""
_MARK = re.compile(r"\A\(?([A-Za-z]|\d{1,2})\s*[.:)]\s*")
_MARKED_LETTER = re.compile(r"\A\W*(?:(?:option|choice|answer)\s*)?\(?([A-Za-z])\W*\Z", re.IGNORECASE)


def parse_literal(text: str) -> Any:
    """Parse a JSON or Python list or mapping given as text; return the text itself if it is neither. Nothing is executed."""
    text = text.strip()
    if text[:1] not in {"[", "{", "("} or len(text) > _LONGEST:
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return text


def read_options(value: Any) -> tuple[str, ...]:
    """Read options from a list, a mapping by letter, ``[{letter, content}]``, or any of these as text.

    Raises:
        ValueError: the value has another form, or an option is empty.
    """
    if isinstance(value, str):
        value = parse_literal(value) if value.strip() else None
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = [text for _, text in sorted(value.items(), key=lambda pair: str(pair[0])) if text is not None]
    if not isinstance(value, list | tuple):
        raise ValueError(f"its options are {type(value).__name__}, not a list")  # noqa: TRY004 - consistent with the other record errors
    options = tuple(str(option["content"] if isinstance(option, Mapping) and "content" in option else option).strip() for option in value)
    if any(not option for option in options):
        raise ValueError("one of its options is empty")
    return options


def split_options(text: str) -> tuple[str, ...]:
    """Split options in one table cell: a list as text, or parts separated by line breaks, semicolons or bars.

    Raises:
        ValueError: there are fewer than two.
    """
    value = parse_literal(text)
    options = read_options(value) if not isinstance(value, str) else tuple(p for part in re.split(r"[\n;|]", text) if (p := part.strip()))
    if len(options) < 2:
        raise ValueError("its options are one text: separate them by semicolons, or give each a column of its own")
    return options


def bare_options(options: Sequence[str]) -> tuple[str, ...]:
    """Strip the letters or numbers in front of options if every option has its own: ``A: Cyst``, ``B: Stone``."""
    marks = [_MARK.match(option) for option in options]
    labels = [match.group(1).upper() if match else "" for match in marks]
    if labels not in ([*LETTERS[: len(options)]], [str(n) for n in range(1, len(options) + 1)]):
        return tuple(options)
    bare = tuple(option[match.end() :].strip() for option, match in zip(options, marks, strict=True) if match)
    return bare if all(bare) else tuple(options)


def lettered(options: Sequence[str]) -> str:
    """Format options one per line, each with a letter."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def question_with_options(question: str, options: Sequence[str]) -> str:
    """Append the options to the question unless it already contains all of them."""
    folded = question.casefold()
    return question if not options or all(option.casefold() in folded for option in options) else f"{question}\n{lettered(options)}"


def answer_in_words(answer: str, options: Sequence[str]) -> str:
    """Return the option that an answer refers to by words, letter, or both (``B. Stone``).

    Raises:
        ValueError: the answer matches no option, or is ambiguous.
    """
    folded = [_folded(option) for option in options]
    given = _folded(answer)
    if folded.count(given) == 1:
        return options[folded.index(given)]
    mark = _MARK.match(answer)
    rest = _folded(answer[mark.end() :]) if mark else ""
    if rest and folded.count(rest) == 1:
        return options[folded.index(rest)]
    letter = _MARKED_LETTER.match(answer)
    if letter and (at := LETTERS.index(letter.group(1).upper())) < len(options):
        return options[at]
    if given.isdigit():
        raise ValueError(f"its answer is the number {given}, but no option is: give the option's letter or text")
    raise ValueError(f"its answer is not one of its {len(options)} options")


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def letter_without_options(question: str, answer: str) -> bool:
    """Return whether an answer is an option letter and the question has no such option."""
    return bool(re.fullmatch(r"\(?[A-H][).:]?", answer.strip())) and not re.search(rf"(?:^|\s)\(?{answer.strip(' ().:')}[).:]", question)
