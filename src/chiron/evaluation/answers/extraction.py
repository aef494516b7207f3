r"""Extract the chosen letter from a reply: the model's own mark, then the last declaration, a bare letter, an option's text.

Rules run from the most to the least explicit. Within one rule the last match counts, because models correct themselves. A reply that says
several things at once is unparsed: "B and C", a letter beyond the options, or a letter with another option's words ("B. Pneumonia" where
that is A). Either part could be the slip, so choosing one would be a guess.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chiron.conversation.short_answers import LETTERS
from chiron.evaluation.answers.answer_phrases import LONE_LETTER, Declaration, Role, declarations
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule, unwrap
from chiron.evaluation.answers.options import Options
from chiron.evaluation.answers.reading import (
    NOTHING,
    REFUSED,
    Checklist,
    Kind,
    Reading,
    corrected_letter,
    last_cue,
    letters_in,
    named_option,
    preferred_letters,
    read_answer,
    read_checklist,
    read_letter,
    read_text,
)
from chiron.evaluation.answers.yes_no import explicit, yes_no

_LABEL = re.compile(r"(?<![\w'-])[(\[]?(?P<letter>[A-Z])[)\].:][)\].:]?[ ](?=\S)")
_LINE_LABEL = re.compile(r"^[ \-\u2022#>|]{0,6}[(\[]?(?P<letter>[A-Z])(?:[)\].:]|[ ]?[|\-\u2013\u2014] )", re.MULTILINE)
# Options listed with a probability or a verdict each: "A (10%), B (70%)", '"A": false, "B": true'.
_LISTED = re.compile(r"(?<![\w'-])[A-Z](?= \(\d|[\"'] ?:)")
_WEIGHED = re.compile(r"(?:(?:Option|Choice|Answer) )?[(\[]?[A-Z][)\]]? (?:was|would|seems|is|might|may|could|looks)\b")
_BULLET = re.compile(r"^[ \-\u2022#>|+]{1,8}(?=\S)")
_PURE = re.compile(r"(?:(?:option|choice|letter|answer)[ :]{1,2})?[(\[<\"']{0,2}(?P<letter>[A-Za-z])[)\]>\"']{0,2}[.:,;)!]?", re.IGNORECASE)
_CLOSING = re.compile(r"(?<=[.!?][ ])(?:(?:option|choice) )?[(\[]?(?P<letter>(?-i:[A-Z]))[)\]]?[.!]?$", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"^(?:#{1,6} ?)?(?:next )?(?:question|q)(?: ?\d{1,3})?[ ]?[:.]", re.IGNORECASE | re.MULTILINE)
_TURN = re.compile(r"\b(?:but|however|although|though|yet|nevertheless|still|on the other hand|whereas|while)\b", re.IGNORECASE)
# A reply with more declarations is repeating itself, and each reading costs time.
_MOST = 64
_READERS = {Role.ANY: read_answer, Role.LETTER: read_letter, Role.TEXT: read_text}


@dataclass(frozen=True, slots=True)
class Extraction:
    """What was found in a reply."""

    index: int | None
    """Index of the option, from 0; ``None`` is unparsed and counts as wrong."""
    rule: Rule

    @property
    def letter(self) -> str | None:
        """``A`` to ``Z``, or ``None`` if unparsed."""
        return None if self.index is None else LETTERS[self.index]


@dataclass(frozen=True, slots=True)
class _Found:
    reading: Reading
    rule: Rule
    at: int = 0
    """Position in characters; corrections are searched after it."""

    @property
    def nothing(self) -> bool:
        return self.reading.kind is Kind.NOTHING


_NOTHING = _Found(NOTHING, Rule.UNPARSED)


def extract(reply: str, options: Sequence[str], *, question: str | None = None, family: ReplyFormat | None = None) -> Extraction:
    """Extract the chosen option from ``reply``. Linear in its length; it accepts any reply.

    Args:
        reply: the model's reply, including its thinking.
        options: texts of the 2 to 26 options, in the order of their letters, as they were asked.
        question: the question asked; needed if the options are yes and no and the reply only states a finding.
        family: the format whose mark is searched first; ``None`` detects it from the reply.

    Raises:
        InputError: fewer than 2 or more than 26 options.
    """
    prepared = Options(options, question)
    unwrapped = unwrap(reply, family)
    if unwrapped.rule:
        marked = _Found(_in_mark(unwrapped.answer, prepared), unwrapped.rule)
        after = _own_question(unwrapped.after)
        second_thought = _declared(after, prepared)
        found = _corrected(marked, after, prepared) if second_thought.nothing else second_thought
    elif unwrapped.unfinished:
        found = _after_steps(unwrapped.answer, prepared)
    else:
        found = _in_prose(unwrapped.answer, prepared)
    return Extraction(found.reading.index, found.rule) if found.reading.kind is Kind.CHOSEN else Extraction(None, Rule.UNPARSED)


def _in_mark(content: str, options: Options) -> Reading:
    """Read the content of a mark. If it cannot be read, the text before the mark does not replace it."""
    reading = read_answer(content, options)
    if reading.kind is not Kind.NOTHING and not reading.by_text:
        return reading
    # Words around the answer ("The answer is (C).") are stronger evidence than an option's text among them.
    found = _in_prose(content, options)
    return reading if found.nothing else found.reading


def _after_steps(text: str, options: Options) -> _Found:
    """Read the last step and the text after it: a declaration, or a last line that contains only an answer."""
    declared = _declared(text, options)
    if not declared.nothing:
        return declared
    own, _, behind = text.rpartition("\n")
    label = _LINE_LABEL.match(behind)
    exact = options.exact(behind[label.end() :] if label else behind)
    if "\n" in text and (_PURE.fullmatch(behind.strip()) or exact is not None) and not _LINE_LABEL.search(own):
        return _Found(read_answer(behind, options), Rule.BARE_LETTER)
    return _NOTHING


def _in_prose(text: str, options: Options) -> _Found:
    head = _own_question(text)
    found = _by_rules(head, options)
    if head == text or not found.nothing:
        return found
    # If nothing was said before, the reply only repeated the question.
    return found if letters_in(head) or options.named(head) else _by_rules(text, options)


def _by_rules(text: str, options: Options) -> _Found:
    """Apply the first rule that finds something, unless the reply takes it back."""
    text = options.without_named_letters(text)
    found = _first_rule(text, options)
    return _corrected(found, text[found.at :], options) if found.reading.kind is Kind.CHOSEN else found


def _corrected(found: _Found, text: str, options: Options) -> _Found:
    """Apply a correction such as "Sorry, I mean C": use that letter, or refuse if the correction is unclear."""
    if found.reading.kind is not Kind.CHOSEN:
        return found
    if {options.index_of(letter) for letter in preferred_letters(text)} - {found.reading.index, None}:
        return _Found(REFUSED, found.rule)
    behind = last_cue(text)
    if behind is None:
        return found
    letter = corrected_letter(text[behind:])
    index = None if letter is None else options.index_of(letter)
    if index is not None:
        return _Found(Reading(Kind.CHOSEN, index), Rule.DECLARATION)
    others = {options.index_of(other) for other in letters_in(text[behind:])} | set(options.named(text[behind:]))
    return found if others <= {found.reading.index, None} else _Found(REFUSED, found.rule)


def _first_rule(text: str, options: Options) -> _Found:
    checklist = read_checklist(text, options)
    return _with_checklist(text, checklist, options) if checklist else _by_words(text, options)


def _with_checklist(text: str, checklist: Checklist, options: Options) -> _Found:
    """Combine the check marks with the words outside their lines; refuse if they disagree."""
    words = _by_words(checklist.rest, options)
    declared = _declared(text, options)
    if declared.reading.kind is Kind.CHOSEN:
        words = declared
    index = words.reading.index if words.reading.kind is Kind.CHOSEN else None
    has_words = index is not None and (words.rule is not Rule.OPTION_TEXT or not checklist.ticked)
    if checklist.unclear or len(checklist.ticked) > 1:
        return words if has_words and words.rule is not Rule.OPTION_TEXT else _Found(REFUSED, Rule.OPTION_TEXT)
    if checklist.ticked:
        (ticked,) = checklist.ticked
        if (has_words and index != ticked) or words.reading.kind is Kind.REFUSED:
            return _Found(REFUSED, Rule.OPTION_TEXT)
        return words if has_words else _Found(Reading(Kind.CHOSEN, ticked), Rule.OPTION_TEXT)
    return _Found(REFUSED, words.rule) if index in checklist.crossed else words


def _by_words(text: str, options: Options) -> _Found:
    if (index := options.exact(text)) is not None and len(text.strip()) > 1:
        return _Found(Reading(Kind.CHOSEN, index, by_text=True), Rule.OPTION_TEXT)
    for rule in (_declared, _bare_letter, _labelled, _closing_letter, _named):
        found = rule(text, options)
        if not found.nothing:
            # "B is not correct" also begins with a letter but does not choose it.
            return _Found(REFUSED, found.rule) if found.reading.index in _denied(text, options) else found
    return _NOTHING


def _own_question(text: str) -> str:
    """Cut off a further question that a base model adds: its answer belongs to that question."""
    following = next((m for m in _NEXT_QUESTION.finditer(text) if m.start() > 0), None)
    return text[: following.start()] if following else text


def _readings(text: str, options: Options) -> list[tuple[Declaration, Reading]]:
    return [(phrase, _READERS[phrase.role](phrase.content, options)) for phrase in declarations(text)[-_MOST:]]


def _declared(text: str, options: Options) -> _Found:
    """Return the last meaningful phrase. If a later one withdraws it, no earlier one counts either."""
    denied, also_declared = set[int | None](), set[int | None]()
    for phrase, reading in reversed(_readings(text, options)):
        if reading.kind is Kind.DENIED:
            denied.add(reading.index)
        elif reading.kind is Kind.CHOSEN and reading.index in denied:
            return _Found(REFUSED, Rule.DECLARATION)
        elif reading.kind is Kind.CHOSEN and phrase.also:
            also_declared.add(reading.index)
        elif reading.kind is not Kind.NOTHING:
            # "The answer is C. However, B is also correct."
            several = also_declared - {reading.index}
            return _Found(REFUSED if several or _doubted(phrase, reading, text, options) else reading, Rule.DECLARATION, phrase.at)
    if also_declared:
        index = also_declared.pop()
        return _Found(REFUSED if also_declared else Reading(Kind.CHOSEN, index), Rule.DECLARATION)
    return _NOTHING


def _doubted(declaration: Declaration, reading: Reading, text: str, options: Options) -> bool:
    """Whether "Edema is most likely" is followed by a "but" and another option."""
    if declaration.role is not Role.TEXT or not (turn := _TURN.search(text, declaration.at)):
        return False
    return any(index != reading.index for index in options.named(text[turn.end() :]))


def _denied(text: str, options: Options) -> set[int]:
    """Return the options that the reply finally says are not the answer."""
    last = {reading.index: reading.kind for _, reading in _readings(text, options) if reading.index is not None}
    return {index for index, kind in last.items() if kind is Kind.DENIED}


def _bare_letter(text: str, options: Options) -> _Found:
    lines = [line for raw in text.split("\n") if (line := _BULLET.sub("", raw).strip(" |"))]
    if not lines:
        return _NOTHING
    alone = [(number, m["letter"].upper()) for number, line in enumerate(lines) if len(line) < 20 and (m := _PURE.fullmatch(line))]
    letters = {letter for _, letter in alone}
    if alone and any(m["letter"] not in letters for line in lines if (m := _CLOSING.search(line[-40:]))):
        return _Found(REFUSED, Rule.BARE_LETTER)
    if alone and (len(letters) == 1 or alone[-1][0] == len(lines) - 1 > alone[-2][0] + 1):
        return _Found(read_letter(lines[alone[-1][0]], options), Rule.BARE_LETTER)
    if alone:
        return _Found(REFUSED, Rule.BARE_LETTER)
    return _leading_letter(text, lines, options)


def _leading_letter(text: str, lines: list[str], options: Options) -> _Found:
    """Find a letter at the start of the reply or of its last line, unless all options are listed there."""
    labelled = {m["letter"] for m in _LINE_LABEL.finditer(text)}
    apart = "\n\n" in text and text.index("\n\n") <= len(lines[0]) + 8
    if len(set(_LISTED.findall(text))) > 1:
        return _NOTHING
    chosen: list[_Found] = []
    for line in dict.fromkeys((lines[0], lines[-1])):
        reading = read_letter(line, options)
        if reading.kind is Kind.NOTHING or (_WEIGHED.match(line) and (len(lines) > 1 or len(set(LONE_LETTER.findall(text))) > 1)):
            continue
        inline = {m["letter"] for m in _LABEL.finditer(line)}
        if len(inline) > 1 or (len(labelled) > 1 and not (apart and line is lines[0])):
            continue
        chosen.append(_Found(reading, Rule.BARE_LETTER, text.rfind(line)))
    if len({found.reading for found in chosen}) > 1:
        return _Found(REFUSED, Rule.BARE_LETTER)
    return chosen[0] if chosen else _NOTHING


def _labelled(text: str, options: Options) -> _Found:
    """Find a letter within a sentence that is followed by its option's words: "CTA shows C. Left MCA"."""
    named = {
        index
        for m in _LABEL.finditer(text)
        if (index := options.index_of(m["letter"])) is not None and options.begins(text[m.end() : m.end() + 400], index, enough=2)
    }
    return _Found(Reading(Kind.CHOSEN, named.pop()), Rule.OPTION_TEXT) if len(named) == 1 else _NOTHING


def _closing_letter(text: str, options: Options) -> _Found:
    """Find a last sentence that is only a letter, if no other letter is alone: "The image is a chest X-ray. B."."""
    closing = _CLOSING.search(text[-40:])
    if closing is None or letters_in(text) | {closing["letter"]} != {closing["letter"]} or len(LONE_LETTER.findall(text)) > 1:
        return _NOTHING
    return _Found(read_letter(closing["letter"], options), Rule.BARE_LETTER, len(text) - len(closing[0]))


def _named(text: str, options: Options) -> _Found:
    if options.yes_no:
        is_yes = explicit(text, options.question)
        index = options.words.index(("yes",) if is_yes else ("no",))
        return _NOTHING if is_yes is None else _Found(Reading(Kind.CHOSEN, index, by_text=True), Rule.OPTION_TEXT)
    last = text.rstrip().rsplit("\n", 1)[-1]
    if (exact := options.exact(last)) is not None and len(last.strip()) > 1:
        return _Found(Reading(Kind.CHOSEN, exact, by_text=True), Rule.OPTION_TEXT)
    return _Found(named_option(text, options), Rule.OPTION_TEXT)


def read_choice(reply: str, options: Sequence[str]) -> str | None:
    """Read which option a reply chooses.

    Args:
        reply: the model's reply, including its thinking.
        options: texts of the 2 to 26 options without letters, in the order of their letters.

    Returns:
        The letter, ``"A"`` to ``"Z"``. ``None`` if the reply chooses no option or several; the result is never a guess.

    Raises:
        InputError: fewer than 2 or more than 26 options.
    """
    return extract(reply, options).letter


def read_yes_no(reply: str, question: str | None = None) -> bool | None:
    """Read whether a reply says yes or no.

    Args:
        reply: the model's reply, including its thinking.
        question: the question asked. If given, statements count too: "There is no evidence of a pneumothorax" answers "Is there a
            pneumothorax?" with no. Without it, only "yes", "no" and similar words count.

    Returns:
        ``True`` for yes, ``False`` for no, ``None`` for neither or both.
    """
    return yes_no(reply, question)
