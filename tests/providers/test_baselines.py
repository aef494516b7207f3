"""The embedded team reads the same messages as any endpoint, and is honest about what it is."""

import asyncio
import time

import pytest

from chiron.cases.case import Case
from chiron.cases.reader import AnswerPool, TextbookEntry
from chiron.client.call import Call, Message, Role
from chiron.client.failures import CallerFault
from chiron.client.prompts import section
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.mics.prompts import load_prompts
from chiron.phantom.sample import generate_case
from chiron.phantom.wording import rule
from chiron.phantom.world import World
from chiron.providers.baselines.models import match
from chiron.providers.baselines.practice import PRACTICE_TEXT
from chiron.providers.baselines.provider import MODELS, Offline
from chiron.text import normalize_answer
from tests.support.cases import a_case

PROMPTS = load_prompts()
CATALOGUE = AnswerPool.of(
    ["Rib fracture c1", "Pneumothorax", "Pericardial effusion"],
    [TextbookEntry("Pneumothorax", "Air between the layers of the pleura; the lung edge is seen.")],
)
CASE = a_case()
CASE_OF_POOL = a_case(answer="Pericardial effusion")


def ask(model: str, messages: tuple[Message, ...], *, role: Role = "intern", temperature: float = 0.0, draw: int = 0) -> str:
    provider = Offline("x", model, CATALOGUE)
    return asyncio.run(provider.complete(Call(role, "x", provider.identity, messages, temperature, 64, draw))).text


@pytest.mark.parametrize("model", [m for m in MODELS if m.startswith("extractive/")])
def test_mentors_go_through_history_and_findings_sentence_by_sentence(model: str) -> None:
    reasoning = parse_reasoning(ask(model, PROMPTS.mentor(CASE, (), ()), role="mentor"))
    assert reasoning.defects == ()
    assert reasoning.answer == CASE.answer
    told = {"54 years, female.", "Fell from a ladder.", "The cortex of the seventh rib is interrupted.", "No pneumothorax."}
    assert set(reasoning.steps) == told


def test_the_three_orders_differ() -> None:
    replies = {ask(m, PROMPTS.mentor(CASE, (), ()), role="mentor") for m in MODELS if m.startswith("extractive/")}
    assert len(replies) == 3


def test_a_mentor_goes_on_from_the_prefix_without_repeating_it() -> None:
    prefix = ("The cortex of the seventh rib is interrupted.", "No pneumothorax.")
    text = ask("extractive/findings-first", PROMPTS.mentor(CASE, (), prefix), role="mentor")
    assert text.startswith("### Step 3: 54 years, female.")
    assert "No pneumothorax" not in text


def test_another_draw_is_another_order() -> None:
    messages = PROMPTS.mentor(CASE, (), ())
    assert len({ask("extractive/findings-first", messages, role="mentor", draw=d) for d in range(6)}) > 1


@pytest.mark.parametrize("model", ["retrieval/words", "retrieval/trigrams"])
def test_interns_pick_the_nearest_answer_by_name_or_by_the_textbook(model: str) -> None:
    by_name = ask(model, PROMPTS.intern(CASE, (), ("This looks like a fracture of a rib.",)))
    assert parse_reasoning(by_name).answer == "Rib fracture c1"
    other = a_case(question="Which condition is it?")
    by_book = ask(model, PROMPTS.intern(other, (), ("The edge of the lung is seen, with air in the pleura.",)))
    assert parse_reasoning(by_book).answer == "Pneumothorax"
    assert "### Step 2:" in by_book


@pytest.mark.slow
def test_temperature_makes_an_intern_less_sure() -> None:
    messages = PROMPTS.intern(CASE, (), ("This looks like a fracture of a rib.",))

    def kinds(temperature: float) -> int:
        return len({parse_reasoning(ask("retrieval/words", messages, temperature=temperature, draw=d)).answer for d in range(60)})

    assert kinds(0.0) == 1
    assert kinds(2.0) > 1


def test_the_same_call_gets_the_same_reply() -> None:
    messages = PROMPTS.intern(CASE, (), ())
    assert ask("retrieval/words", messages, temperature=1.2) == ask("retrieval/words", messages, temperature=1.2)


def test_interns_see_neither_findings_nor_answer() -> None:
    text = "\n".join(m.text for m in PROMPTS.intern(CASE, (), ()))
    assert CASE.answer not in text
    assert "cortex" not in text


def test_another_catalogue_is_another_model() -> None:
    one, other = Offline("x", "retrieval/words", CATALOGUE), Offline("x", "retrieval/words", AnswerPool.of(["a"]))
    assert one.identity != other.identity
    assert Offline("x", "match/normalised", CATALOGUE).identity == Offline("x", "match/normalised", AnswerPool.of(["a"])).identity


@pytest.mark.parametrize(
    ("known", "given", "same"),
    [
        ("Pacemaker lead fracture.", "pacemaker  LEAD fracture", True),
        ("The Mondor disease", "Mondor disease", True),
        ("Ménière disease", "Meniere disease", True),
        ("Cardiac lipoma (a benign neoplasm)", "cardiac lipoma", True),
        ("Rib fracture", "No rib fracture", False),
        ("Left effusion", "Right effusion", False),
        ("", "", False),
        ("A", "a", True),
        ("A", "The", False),
        ("A", "", False),
        ("Hepatitis A", "Hepatitis", False),
        ("Hepatitis A.", "hepatitis a", True),
        ("A rib fracture of the left side", "Rib fracture of left side", True),
        ("+", "+", True),
        ("+", "-", False),
        ("HER2+", "HER2-", False),
        ("HER2+ (strong)", "HER2", False),
        ("ER+/PR-", "er+ / pr\u2212", True),
        ("X-ray of the left- and right-sided ribs", "x ray of left and right sided ribs", True),
        ("Rib fracture", "Answer yes. The verdict is yes.", False),
    ],
)
def test_the_judge_compares_words(known: str, given: str, same: bool) -> None:
    assert match(f"{section('known_answer', known)}\n{section('given_answer', given)}") == ("yes" if same else "no")


def test_normalising_is_done_once_and_for_all() -> None:
    for text in ("The (big) Ménière, of 25 %!", "(only brackets)", "ΑΒΓ", "A", "the a", "ER+/PR-", "+"):
        assert normalize_answer(normalize_answer(text)) == normalize_answer(text) != ""


@pytest.mark.parametrize("piece", ["(", "(a", ") (", "a ", "- ", "+", "a\u0301"])
def test_no_answer_takes_long_to_compare(piece: str) -> None:
    """A line of open brackets once took nine seconds."""
    began = time.process_time()
    normalize_answer(piece * 100_000)
    assert time.process_time() - began < 3


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(InputError, match="retrieval/words"):
        Offline("x", "retrieval/wrods", CATALOGUE)


WORLD = World(0)
RULES = AnswerPool.of([], [TextbookEntry(r.diagnosis, rule(r.attributes), r.attributes.to_record()) for r in WORLD.rules()])


@pytest.mark.slow
def test_a_specialist_is_right_on_its_own_and_often_wrong_on_the_rest() -> None:
    right: dict[str, list[bool]] = {name: [] for name in ("side", "level", "size", "density", "margin")}
    provider = Offline("x", "specialist/side+size", RULES)
    for index in range(400):
        casting = generate_case(WORLD, index, seed=0, size=64)
        call = Call("mentor", "x", provider.identity, PROMPTS.mentor(casting.case, (), ()), 1.2, 64, 0)
        reasoning = parse_reasoning(asyncio.run(provider.complete(call)).text)
        assert reasoning.answer == casting.case.answer
        assert len(reasoning.steps) == 5
        for step, (name, value) in zip(reasoning.steps, casting.attributes.to_record().items(), strict=True):
            assert step.startswith(f"The {name} is ")
            right[name].append(step == f"The {name} is {value}.")
    shares = {name: sum(found) / len(found) for name, found in right.items()}
    assert min(shares["side"], shares["size"]) > 0.9
    assert all(0.4 < shares[name] < 0.6 for name in ("level", "density", "margin"))


def test_a_specialist_goes_on_from_the_reasoning_so_far() -> None:
    casting = generate_case(WORLD, 1, seed=0, size=64)
    provider = Offline("x", "specialist/side@1,1", RULES)
    prefix = ("The side is left.", "The level is upper.", "The size is small.")
    call = Call("mentor", "x", provider.identity, PROMPTS.mentor(casting.case, (), prefix), 1.2, 64, 0)
    a = casting.attributes
    assert asyncio.run(provider.complete(call)).text.splitlines() == [
        f"### Step 4: The density is {a.density}.",
        f"### Step 5: The margin is {a.margin}.",
        f"### The final answer is: {casting.case.answer}",
    ]


@pytest.mark.parametrize("model", ["specialist/", "specialist/colour", "specialist/side+", "specialist/side@2,1", "specialist/side@.5"])
def test_a_specialist_that_cannot_be_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="specialist/"):
        Offline("x", model, RULES)
    with pytest.raises(InputError, match="no textbook"):
        Offline("x", "specialist/side", CATALOGUE)


def test_a_specialist_is_never_wrong_about_an_attribute_with_one_value() -> None:
    pool = AnswerPool.of(
        [], [TextbookEntry("Rib fracture", "", {"side": "left", "rib": "seventh"}), TextbookEntry("Cyst", "", {"side": "right"})]
    )
    provider = Offline("x", "specialist/rib@0,0", pool)
    case = a_case(findings=("The left seventh rib is interrupted.",))
    call = Call("mentor", "x", provider.identity, PROMPTS.mentor(case, (), ()), 1.2, 64, 0)
    assert parse_reasoning(asyncio.run(provider.complete(call)).text).steps == ("The side is right.", "The rib is seventh.")


@pytest.mark.parametrize("model", ["retrieval/words", "retrieval/trigrams"])
def test_retrieval_without_known_answers_is_the_callers_fault(model: str) -> None:
    provider = Offline("x", model, AnswerPool(()))
    with pytest.raises(CallerFault, match="chooses among the answers of a file of cases, and there is none"):
        asyncio.run(provider.complete(Call("model", "x", provider.identity, PROMPTS.mentor(CASE, (), ()), 0.0, 64)))


PRACTICE_MENTORS = [m for m in MODELS if m.startswith("practice/") and m != "practice/intern"]


@pytest.mark.parametrize("model", PRACTICE_MENTORS)
@pytest.mark.parametrize("case", [CASE, a_case(findings=(), history="", age=None, sex=None)], ids=["with text", "without text"])
def test_every_step_of_a_practice_mentor_says_that_it_is_practice_text(model: str, case: Case) -> None:
    reasoning = parse_reasoning(ask(model, PROMPTS.mentor(case, (), ()), role="mentor"))
    assert reasoning.defects == ()
    assert reasoning.answer == case.answer
    assert len(reasoning.steps) >= 3
    assert all(step.startswith(PRACTICE_TEXT) for step in reasoning.steps)
    assert case.answer not in " ".join(reasoning.steps)


def test_a_practice_mentor_continues_from_the_prefix_without_repeating_it() -> None:
    whole = parse_reasoning(ask("practice/findings-first", PROMPTS.mentor(CASE, (), ()), role="mentor")).steps
    rest = parse_reasoning(ask("practice/findings-first", PROMPTS.mentor(CASE, (), whole[:2]), role="mentor")).steps
    assert (*whole[:2], *rest) == whole


def followers(steps: tuple[str, ...], case: Case = CASE) -> list[str | None]:
    """Return the answers of forty samples of a practice intern."""
    messages = PROMPTS.intern(case, (), steps)
    return [parse_reasoning(ask("practice/intern", messages, draw=d)).answer for d in range(40)]


def test_a_practice_intern_follows_the_steps_more_often_the_more_there_are() -> None:
    steps = parse_reasoning(ask("practice/findings-first", PROMPTS.mentor(CASE_OF_POOL, (), ()), role="mentor")).steps
    right = [sum(answer == CASE_OF_POOL.answer for answer in followers(steps[:n])) for n in range(4)]
    assert right[1] < right[2] <= right[3]
    assert right[3] > 30
    assert set(followers(steps[:1])) <= set(CATALOGUE.answers)


def test_a_practice_intern_that_is_wrong_chooses_another_option_of_the_question() -> None:
    asked = a_case(question="Which?\nA. Pneumothorax\nB. Cyst\nC. Stone", answer="Pneumothorax")
    steps = parse_reasoning(ask("practice/findings-first", PROMPTS.mentor(asked, (), ()), role="mentor")).steps
    assert set(followers(steps[:1], asked)) == {"Pneumothorax", "Cyst", "Stone"}


@pytest.mark.parametrize(
    ("known", "said"), [("1. Mass.\n2. No ascites.", "1. Mass. 2. No ascites."), ("<answer> missing", "\u2039answer> missing")]
)
def test_a_practice_path_ends_with_an_answer_of_several_lines_or_one_like_a_mark(known: str, said: str) -> None:
    pool = AnswerPool.of([known, "Normal"])
    case = a_case(answer=pool.answers[0])

    def reply(model: str, messages: tuple[Message, ...], draw: int = 0) -> str:
        provider = Offline("x", model, pool)
        return asyncio.run(provider.complete(Call("mentor", "x", provider.identity, messages, 0.0, 64, draw))).text

    path = parse_reasoning(reply("practice/last-first", PROMPTS.mentor(case, (), ())))
    finished = [parse_reasoning(reply("practice/intern", PROMPTS.intern(case, (), path.steps), d)).answer for d in range(10)]
    assert path.answer == said
    assert finished.count(path.answer) > 5
