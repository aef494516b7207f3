"""A key is the whole question and nothing but the question."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.client.call import Call, ImagePart, Message, TextPart
from chiron.client.failures import CallerFault, CallFailed, Flagged, RateLimited, Transient, failure_of
from tests.support.calls import a_call

BASE = Call(
    "intern",
    "alias",
    "openai:m",
    (Message("system", (TextPart("be brief"),)), Message("user", (ImagePart("ab" * 32, 512), TextPart("why?")))),
    0.2,
    64,
)


def test_the_key_is_stable_across_versions_of_this_package() -> None:
    """Were this to change, every ledger in the world would be paid for again."""
    assert a_call("hello").key == "2b6ddd9d4100c4fd857458c27247d7909ab4e98fffbdcb1d90d7543ac08eaa6b"


def test_everything_asked_is_in_the_key() -> None:
    others = [
        replace(BASE, role="judge"),
        replace(BASE, identity="openai:n"),
        replace(BASE, messages=(BASE.messages[0], Message("user", (ImagePart("ab" * 32, 512), TextPart("how?"))))),
        replace(BASE, messages=(BASE.messages[0], Message("user", (ImagePart("cd" * 32, 512), TextPart("why?"))))),
        replace(BASE, messages=(BASE.messages[0], Message("user", (ImagePart("ab" * 32, 256), TextPart("why?"))))),
        replace(BASE, messages=(BASE.messages[0], Message("user", (TextPart("why?"), ImagePart("ab" * 32, 512))))),
        replace(BASE, messages=BASE.messages[1:]),
        replace(BASE, temperature=1.2),
        replace(BASE, max_tokens=65),
        replace(BASE, draw=1),
    ]
    keys = {BASE.key, *(o.key for o in others)}
    assert len(keys) == len(others) + 1


def test_renaming_a_model_in_the_configuration_costs_nothing() -> None:
    assert replace(BASE, model="another alias").key == BASE.key


@given(st.text(), st.text())
def test_different_words_have_different_keys(one: str, other: str) -> None:
    assert (a_call(one).key == a_call(other).key) == (one == other)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_parts_do_not_run_together(one: list[str], other: list[str]) -> None:
    def call(parts: list[str]) -> Call:
        return replace(BASE, messages=(Message("user", tuple(TextPart(p) for p in parts)),))

    assert (call(one).key == call(other).key) == (one == other)


@pytest.mark.parametrize("kind", [CallFailed, RateLimited, Transient, CallerFault, Flagged])
def test_a_failed_call_is_stored_without_words_of_the_prompt_and_fails_in_the_same_way_again(kind: type[CallFailed]) -> None:
    class OfAPlugIn(kind):  # type: ignore[misc,valid-type]
        pass

    failure = OfAPlugIn("Mrs. Smith is not allowed", public="[...] is not allowed")
    record = json.dumps(failure.to_record())
    assert "Smith" not in record
    again = failure_of(json.loads(record))
    assert (type(again), again.public, str(again)) == (kind, failure.public, failure.public)
    if issubclass(kind, CallerFault):
        told = kind("no such model", misconfigured=True)
        assert getattr(failure_of(told.to_record()), "misconfigured")  # noqa: B009 - of this kind only
