"""Why a model stopped, in the words of many providers, sorted into what a caller has to know.

The spellings are those of OpenAI, Azure, Gemini (its OpenAI endpoint and its own), Anthropic, Bedrock, Mistral, Cohere, DeepSeek, Zhipu,
OpenRouter, Together, watsonx, vLLM, SGLang, TGI, llama.cpp, Ollama and LM Studio. Case, hyphens and spaces do not matter.
"""

import re
from enum import StrEnum


class Finish(StrEnum):
    """What became of a reply."""

    COMPLETE = "complete"
    CUT_OFF = "cut off"
    """The token limit or the context ended it."""
    FILTERED = "filtered"
    """A content filter withheld it; the same call is filtered again."""
    FAILED = "failed"
    """The provider's attempt failed half-way; the same call may succeed."""
    UNKNOWN = "unknown"
    """A word that is not listed here; the reply is taken as complete, with a note."""


_SPELLINGS = {
    Finish.COMPLETE: (
        "stop end_turn stop_sequence complete completed eos eos_token endoftext eosfound stopstringfound word done normal"
        " tool_calls tool_call tool_use function_call toolcalls function_calls pause_turn finish_reason_unspecified unspecified"
    ),
    Finish.CUT_OFF: (
        "length max_tokens max_token max_length max_output_tokens max_completion_tokens maxtokens model_length limit token_limit"
        " error_limit model_context_window_exceeded context_window_exceeded context_length_exceeded compaction"
        " maxpredictedtokensreached contextlengthreached incomplete repetition"
    ),
    Finish.FILTERED: (
        "content_filter content_filtered contentfilter filtered safety recitation language blocklist prohibited_content spii image_safety"
        " image_prohibited_content image_recitation model_armor refusal guardrail_intervened error_toxic sensitive blocked moderation"
        " content_policy content_policy_violation escalation"
    ),
    Finish.FAILED: (
        "error failed failure abort aborted cancel cancelled canceled user_cancel timeout time_limit network_error server_error"
        " insufficient_system_resource other malformed_function_call malformed_response malformed_model_output malformed_tool_use"
        " unexpected_tool_call too_many_tool_calls function_call_filter missing_thought_signature no_image image_other load unload"
        " not_finished modelunloaded userstopped"
    ),
}
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_PREFIX = re.compile(r"^(?:finish_?reason|stop_?reason)[._](?=.)")

LENGTH = "length"
"""How a reply is stored that was cut off, in whatever word."""
_THINKING = ": only thinking"
"""Ends the stored word of a reply that has thinking and no text."""
CUT_OFF_SQL = "', '".join(w for word in _SPELLINGS[Finish.CUT_OFF].split() for w in (word, word + _THINKING))
"""Stored words of replies that were cut off, to stand between the quotes of an SQL list; ledgers of earlier versions hold all of them."""


def sort_finish(reason: str) -> Finish:
    """What a provider's word stands for. Gemini appends details, as in ``content_filter: PROHIBITED_CONTENT``."""
    plain = re.sub(r"[\s-]+", "_", reason.split(":", 1)[0].strip().lower())
    return _KINDS.get(plain) or _KINDS.get(_PREFIX.sub("", plain), Finish.UNKNOWN)


def stored_finish(reason: str, *, only_thinking: bool) -> str:
    """The word that is kept with a reply: the provider's own, except that every cut-off reply has the same."""
    word = LENGTH if sort_finish(reason) is Finish.CUT_OFF else reason
    return word + _THINKING if only_thinking else word


def is_only_thinking(stored: str) -> bool:
    """Whether a stored word is of a reply that has thinking and no text."""
    return stored.endswith(_THINKING)


def finish_note(stored: str) -> str | None:
    """What to say of a reply that ended for a reason that is not known here; ``None`` where there is nothing to say."""
    word = stored.removesuffix(_THINKING)
    return (
        None
        if sort_finish(word) is not Finish.UNKNOWN
        else f"the reply ended for a reason not known here ('{word[:60]}'); it counts as complete"
    )
