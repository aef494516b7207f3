"""What a user can change when an endpoint refuses a call: the setting that answers the server's words."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cure:
    """Advice for one kind of refusal."""

    words: re.Pattern[str]
    """Found in what the server said."""
    advice: str
    every_call: bool = False
    """Whether the refusal is about the configuration, so that every call meets it."""


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
"""What to do about a reply that is all thinking."""


def cure_for(words: str) -> Cure | None:
    """The advice that fits a server's words, if any does."""
    return next((cure for cure in _CURES if cure.words.search(words)), None)


def is_flagged(words: str) -> bool:
    """Whether the words are of a content filter: it is about this input, and not about the key."""
    return _FLAGGED.search(words) is not None
