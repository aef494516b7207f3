"""Classify why a model stopped, and suggest settings that fix a rejected call."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Finish(StrEnum):
    """How a reply ended."""

    COMPLETE = "complete"
    CUT_OFF = "cut off"
    """Ended by the token limit or the context length."""
    FILTERED = "filtered"
    """Withheld by a content filter; the same call would be filtered again."""
    FAILED = "failed"
    """The provider failed while it generated the reply; the same call may succeed."""
    UNKNOWN = "unknown"
    """A word that is not listed here. The reply is treated as complete, with a note."""


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
"""Stored word for every reply that was cut off."""
_THINKING = ": only thinking"
"""Suffix of the stored word of a reply that has thinking but no text."""
CUT_OFF_SQL = "', '".join(w for word in _SPELLINGS[Finish.CUT_OFF].split() for w in (word, word + _THINKING))
"""Stored words of replies that were cut off, for use between the quotes of an SQL list. Ledgers of earlier versions contain all of them."""


def sort_finish(reason: str) -> Finish:
    """Classify a provider's word. Gemini appends details, as in ``content_filter: PROHIBITED_CONTENT``."""
    plain = re.sub(r"[\s-]+", "_", reason.split(":", 1)[0].strip().lower())
    return _KINDS.get(plain) or _KINDS.get(_PREFIX.sub("", plain), Finish.UNKNOWN)


def stored_finish(reason: str, *, only_thinking: bool) -> str:
    """Return the word to store with a reply: the provider's own, except that all cut-off replies get the same one."""
    word = LENGTH if sort_finish(reason) is Finish.CUT_OFF else reason
    return word + _THINKING if only_thinking else word


def is_only_thinking(stored: str) -> bool:
    """Return whether a stored word marks a reply that has thinking but no text."""
    return stored.endswith(_THINKING)


def finish_note(stored: str) -> str | None:
    """Return a note on a reply that ended for an unknown reason, else ``None``."""
    word = stored.removesuffix(_THINKING)
    return (
        None if sort_finish(word) is not Finish.UNKNOWN else f"the reply ended for an unknown reason ('{word[:60]}'); it counts as complete"
    )


@dataclass(frozen=True, slots=True)
class Cure:
    """Advice for one kind of rejection."""

    words: re.Pattern[str]
    """Pattern to find in the server's message."""
    advice: str
    every_call: bool = False
    """Whether the configuration is at fault, so that every call is rejected."""


def _cure(words: str, advice: str, *, every_call: bool = False) -> Cure:
    return Cure(re.compile(words, re.IGNORECASE), advice, every_call)


_CURES = (
    _cure(
        r"api[ _-]?key.{0,40}(?:not valid|invalid|incorrect|expired|missing|not found|required)"
        r"|(?:invalid|incorrect|expired|missing|no) api[ _-]?key|API_KEY_INVALID|invalid_api_key",
        "check api_key_env and the variable that it names",
        every_call=True,
    ),
    _cure(
        r"system (?:role|messages?|prompts?|instructions?|turn).{0,40}(?:(?:not|n.t) (?:support|allow|permit|accept|enabled)|unsupported)"
        r"|unsupported.{0,20}system|roles must alternate|unknown role:? .?system|developer instruction is not enabled"
        r"|(?:only|must).{0,20}user (?:and|or|/) ?(?:assistant|model)",
        "set 'system_role: user' on the model, so that the system text is put before the first user turn",
        every_call=True,
    ),
    _cure(
        r"max_completion_tokens",
        "set 'max_tokens_field: max_completion_tokens' on the model",
        every_call=True,
    ),
    _cure(
        r"temperature.{0,80}(?:not supported|unsupported|does ?n.t support|does not support|only the default|deprecated|not allowed)"
        r"|(?:not support|unsupported)[^.]{0,60}temperature",
        "set 'temperature: false' on the model",
        every_call=True,
    ),
    _cure(
        r"at most \d+ image|too many images|limit.mm.per.prompt"
        r"|multiple images.{0,30}(?:not|un)|\b(?:only|one|single) (?:one |single )?image",
        "the server takes fewer images a call: start it with a higher limit (vLLM: --limit-mm-per-prompt), or choose another model",
    ),
    _cure(
        r"not (?:a )?(?:multi-?modal|vision)|image.{0,40}(?:not supported|not support|unsupported|not enabled)"
        r"|(?:not support|unsupported|cannot (?:read|process|take))[^.]{0,40}(?:image|multi-?modal|vision)"
        r"|mmproj|unknown variant .?image_url",
        "the model takes no images: choose one that does (llama.cpp: start it with --mmproj)",
    ),
    _cure(
        r"context.{0,20}(?:length|size|window|limit)|maximum.{0,20}length|context_length_exceeded|too many tokens"
        r"|(?:prompt|input).{0,20}too long"
        r"|exceed.{0,40}(?:context|tokens)|\bn_ctx\b|the context has",
        "the request is longer than the model's context: lower max_tokens or image_side, or serve the model with a longer context",
    ),
    _cure(r"(?:image|payload|body|entity).{0,30}too (?:large|big)|request too large", "the request is too large: lower image_side"),
    _cure(
        r"model.{0,60}(?:not found|does not exist|not exist|unknown|not available|no such)|no such model|model_not_found",
        "check 'model': the server does not know this name",
        every_call=True,
    ),
)
_FLAGGED = re.compile(
    r"\bflagged\b|moderat|content.?(?:filter|policy|management policy)|safety (?:system|filter|polic)|responsible.?ai"
    r"|data_inspection_failed|prohibited.?content|inappropriate content|sensitive content",
    re.IGNORECASE,
)
MORE_SPACE = "raise max_tokens (search.max_tokens, or the model's own), or have the model think less (parameters)"
"""Advice for replies that contain only thinking."""


def cure_for(words: str) -> Cure | None:
    """Return the advice that matches a server's message, if any."""
    return next((cure for cure in _CURES if cure.words.search(words)), None)


def is_flagged(words: str) -> bool:
    """Return whether the message comes from a content filter, so that the input is at fault and not the key."""
    return _FLAGGED.search(words) is not None
