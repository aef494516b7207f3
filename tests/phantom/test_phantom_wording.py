import re
from collections import Counter

import pytest

from chiron.cases.formats import image_marks, parse_case
from chiron.phantom.drawing import MODALITIES
from chiron.phantom.sample import SyntheticCase, generate_case
from chiron.phantom.wording import PLACES, rule
from chiron.phantom.world import DENSITIES, DIAGNOSES, LEVELS, MARGINS, SIDES, SIZES, World

WORLD = World(0)
ATTRIBUTE_WORDS = {*SIDES, *LEVELS, *SIZES, *DENSITIES, *MARGINS}
ANSWER_WORDS = {word.lower() for name in DIAGNOSES for word in name.split()}


@pytest.fixture(scope="module")
def castings() -> list[SyntheticCase]:
    return [generate_case(WORLD, index, seed=5, size=64) for index in range(540)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_a_record_is_a_tidy_case(castings: list[SyntheticCase]) -> None:
    for casting in castings:
        case = parse_case(casting.case.to_record())
        assert case == casting.case
        assert case.meta["attributes"] == casting.attributes.to_record()
        assert case.answer == WORLD.diagnose(casting.attributes)
        assert case.age is not None
        assert re.fullmatch(r"\d+ years", case.age)
        assert case.modality == casting.modality
        assert image_marks(case.findings) in {0, len(case.images)}
    assert castings[12].case.id == "phantom-000012"


def test_findings_state_every_attribute_and_no_other(castings: list[SyntheticCase]) -> None:
    for casting in castings:
        said = words(" ".join(casting.case.findings))
        assert said & ATTRIBUTE_WORDS == set(casting.attributes.to_record().values())
        assert not said & ANSWER_WORDS
        assert all(text.startswith(("The lesion", "No ", "The ", "Both", "Blood")) for text in casting.case.findings)


def test_a_pronoun_follows_only_where_the_lesion_was_named(castings: list[SyntheticCase]) -> None:
    for casting in castings:
        for text in casting.case.findings:
            before = ""
            for sentence in text.split(". "):
                assert not sentence.startswith(("It ", "Its ")) or before.startswith(("The lesion", "It"))
                before = sentence


def test_question_and_history_reveal_nothing(castings: list[SyntheticCase]) -> None:
    for casting in castings:
        assert not words(casting.case.question + " " + casting.case.history) & (ATTRIBUTE_WORDS | ANSWER_WORDS)


def test_neutral_words_are_neutral() -> None:
    taken = ATTRIBUTE_WORDS | ANSWER_WORDS | {"lesion", "margin", "side"}
    for place in PLACES.values():
        assert not words(" ".join([*place.neutral, place.again, place.body_system])) & taken
        assert not words(" ".join(c.words for c in place.complaints)) & taken


def test_the_findings_lead_to_one_rule_and_part_of_them_to_several(castings: list[SyntheticCase]) -> None:
    rules = WORLD.rules()
    for casting in castings[:108]:
        said = words(" ".join(casting.case.findings))
        matches = Counter({r: len(words(rule(r.attributes)) & said) for r in rules})
        (best, most), (_, second) = matches.most_common(2)
        assert best.attributes == casting.attributes
        assert most > second
        unsure = said - {casting.attributes.margin, casting.attributes.size}
        left = [len(words(rule(r.attributes)) & unsure) for r in rules]
        assert left.count(max(left)) == 6


def test_rules_are_worded_as_promised() -> None:
    texts = [rule(r.attributes) for r in WORLD.rules()]
    assert "A small bright lesion with a spiculated margin, at the upper level of the left side." in texts
    assert len(set(texts)) == 108


def test_cases_vary_and_are_balanced(castings: list[SyntheticCase]) -> None:
    cases = [casting.case for casting in castings]
    assert Counter(case.answer for case in cases) == dict.fromkeys(DIAGNOSES, 60)
    assert set(Counter(c.attributes for c in castings).values()) == {5}
    assert 0.15 < sum(len(case.images) == 2 for case in cases) / len(cases) < 0.35
    assert len({case.question for case in cases}) >= 2
    assert {len(case.findings) for case in cases} == {1, 2}
    starts = Counter(case.findings[0].split(".")[0].split()[2] for case in cases if case.findings[0].startswith("The lesion"))
    assert len(starts) >= 3
    for start in range(20):
        assert len({c.modality for c in castings[start : start + 8]}) >= 4


def test_patients_fit_their_complaints(castings: list[SyntheticCase]) -> None:
    for casting in castings:
        case = casting.case
        assert case.age is not None
        age = int(case.age.split()[0])
        person = {("Female", True): "woman", ("Female", False): "girl", ("Male", True): "man", ("Male", False): "boy"}
        assert f"{age}-year-old {person[case.sex or '', age >= 18]} with" in case.history
        complaints = [c for c in PLACES[casting.modality].complaints if c.words in case.history]
        assert any(c.youngest <= age <= c.oldest for c in complaints)
        if casting.modality == "Mammography":
            assert case.sex == "Female"


def test_all_modalities_take_turns(castings: list[SyntheticCase]) -> None:
    assert [c.modality for c in castings[: len(MODALITIES)]] == list(MODALITIES)
