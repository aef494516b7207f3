"""Every provider's word for why a reply ended lands in one of a few kinds, over HTTP."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chiron.client.call import Finish, Reply, sort_finish
from chiron.client.failures import CallerFault, Transient
from chiron.client.ledger import Ledger
from tests.providers.test_openai_compatible import ask, failing
from tests.support.calls import a_call
from tests.support.endpoint import Endpoint, completion

CUT_OFF = [
    *("length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "token_limit", "limit", "ERROR_LIMIT"),
    *("model_context_window_exceeded", "maxPredictedTokensReached", "contextLengthReached", "FinishReason.MAX_TOKENS", "max-tokens"),
]
FILTERED = [
    *("content_filter", "CONTENT_FILTER", "content-filter", "content_filter: PROHIBITED_CONTENT", "SAFETY", "RECITATION", "BLOCKLIST"),
    *("PROHIBITED_CONTENT", "SPII", "refusal", "guardrail_intervened", "content_filtered", "ERROR_TOXIC", "sensitive", "IMAGE_SAFETY"),
]
FAILED = ["error", "ERROR", "abort", "insufficient_system_resource", "network_error", "OTHER", "cancelled", "TIMEOUT"]
COMPLETE = ["stop", "STOP", "end_turn", "stop_sequence", "COMPLETE", "eos", "eos_token", "tool_calls", "eosFound"]


def reply_with(finish: str | None, *, message: dict[str, Any] | str | None = "whole", **choice: Any) -> dict[str, Any]:
    body = completion("### Step 1: The cortex")
    body["choices"][0] |= {"finish_reason": finish, **choice}
    if message is None:
        del body["choices"][0]["message"]
    elif isinstance(message, dict):
        body["choices"][0]["message"] = message
    return body


def asked(body: dict[str, Any]) -> Reply:
    with Endpoint(lambda _: "", override=lambda *_: web.json_response(body)) as endpoint:
        return ask(endpoint)


@pytest.mark.parametrize("finish", CUT_OFF)
def test_a_reply_that_a_limit_ended_is_cut_off_in_every_spelling(finish: str, tmp_path: Path) -> None:
    reply = asked(reply_with(finish))
    assert reply.cut_off
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.put(a_call(), reply)
        assert [s.cut_off for s in ledger.spending()] == [1]


def test_a_ledger_of_an_earlier_version_counts_every_spelling(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.put(a_call(), Reply("half", "length"))
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.execute("UPDATE calls SET finish = 'MAX_TOKENS', checksum = NULL")  # earlier versions kept none
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        kept = ledger.get(a_call().key)
        assert kept is not None
        assert kept.cut_off
        assert [s.cut_off for s in ledger.spending()] == [1]


@pytest.mark.parametrize("message", ["whole", None, {"role": "assistant", "content": None}])
@pytest.mark.parametrize("finish", FILTERED)
def test_a_withheld_reply_is_called_so_with_a_message_or_without(finish: str, message: Any) -> None:
    failure = failing(reply_with(finish, message=message))
    assert isinstance(failure, CallerFault)
    assert not failure.misconfigured
    assert failure.maybe_billed
    assert "withheld" in failure.public


@pytest.mark.parametrize("finish", FAILED)
def test_a_failed_attempt_is_not_a_reply(finish: str) -> None:
    failure = failing(reply_with(finish))
    assert isinstance(failure, Transient)
    assert failure.maybe_billed


def test_a_failed_attempt_keeps_its_words_and_its_class() -> None:
    failure = failing(reply_with("error", error={"code": 502, "message": "The upstream provider hung up"}))
    assert isinstance(failure, Transient)
    assert "The upstream provider hung up" in failure.public
    failure = failing(reply_with(None, error={"code": 400, "message": "too many tokens"}))
    assert isinstance(failure, CallerFault)
    assert "too many tokens" in failure.public


@pytest.mark.parametrize("finish", [*COMPLETE, None])
def test_a_complete_reply_is_a_reply(finish: str | None) -> None:
    reply = asked(reply_with(finish))
    assert not reply.cut_off
    assert reply.text == "### Step 1: The cortex"


def test_an_unknown_reason_counts_as_complete() -> None:
    reply = asked(reply_with("ran_into_the_wall"))
    assert (reply.text, reply.finish, reply.cut_off) == ("### Step 1: The cortex", "ran_into_the_wall", False)
    assert sort_finish(reply.finish) is Finish.UNKNOWN


THOUGHTS = [
    {"content": None, "reasoning_content": "The cortex is interrupted."},
    {"content": "", "reasoning": "The cortex is interrupted."},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "The cortex."}]}]},
    {"content": [{"type": "reasoning", "text": "The cortex."}]},
]


@pytest.mark.parametrize("message", THOUGHTS)
@pytest.mark.parametrize(("finish", "cut_off"), [("stop", False), ("length", True), ("MAX_TOKENS", True)])
def test_a_reply_of_thinking_alone_is_kept_as_such_and_not_paid_again(message: dict[str, Any], finish: str, cut_off: bool) -> None:
    reply = asked(reply_with(finish, message=message))
    assert (reply.text, reply.only_thinking, reply.cut_off) == ("", True, cut_off)


def test_thinking_beside_text_is_not_part_of_the_text() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "A rib."}]
    reply = asked(reply_with("stop", message={"content": content, "reasoning_content": "Hm."}))
    assert (reply.text, reply.only_thinking) == ("A rib.", False)
