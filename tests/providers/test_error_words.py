"""What a server says of a failure reaches the user: code and words in every shape, with advice, without key and prompt."""

import json
from typing import Any

import pytest
from aiohttp import web

from chiron.client.failures import CallerFault, Flagged, RateLimited, Transient, without_prompt
from chiron.providers.response_parsing import read_error
from tests.providers.test_openai_compatible import failing


def as_it_is(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ([{"error": {"code": 400, "message": "not valid", "status": "INVALID_ARGUMENT"}}], "INVALID_ARGUMENT", "not valid"),
        ({"object": "error", "message": "no room", "type": "BadRequestError", "code": 400}, "BadRequestError", "no room"),
        ({"error": "model is loading"}, None, "model is loading"),
        ({"error": {"message": "no", "type": "a_type", "code": None}}, "a_type", "no"),
        ({"error": {"message": "no", "type": "a_type", "code": "a_code"}}, "a_code", "no"),
        ({"detail": "Not Found"}, None, "Not Found"),
        (
            {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Field required", "type": "missing"}]},
            "missing",
            "body.messages.0.content: Field required",
        ),
        ({"errors": [{"message": "one"}, {"message": "two"}]}, None, "one; two"),
        ({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "the real reason"}}}, "400", "the real reason"),
        ({"message": "Forbidden"}, None, "Forbidden"),
        ({"__type": "ValidationException", "Message": "too long"}, "ValidationException", "too long"),
        ({"strange": {"deep": "words"}}, None, "words"),
    ],
)
def test_code_and_words_are_found_in_every_shape(body: Any, code: str | None, words: str) -> None:
    error = read_error(json.dumps(body), as_it_is)
    assert error.code == code
    assert words in error.words


def test_an_error_with_status_200_is_an_error_in_every_shape() -> None:
    for body in ({"object": "error", "message": "no room", "code": 400}, [{"error": {"code": 400, "message": "no room"}}]):
        failure = failing(body)
        assert isinstance(failure, CallerFault)
        assert "no room" in failure.public
    failure = failing({"detail": "no room"})
    assert isinstance(failure, Transient)
    assert "no room" in failure.public
    assert isinstance(failing({"object": "error", "message": "slow", "code": 429}), RateLimited)


def test_a_refused_key_is_a_misconfiguration_whatever_its_status() -> None:
    body = [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}]
    failure = failing(lambda: web.json_response(body, status=400))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "check api_key_env" in failure.public


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 403, "message": "This model is moderated and the input was flagged", "metadata": {"reasons": ["violence"]}}},
        {"error": {"code": "content_filter", "message": "The response was filtered due to the content management policy"}},
    ],
)
@pytest.mark.parametrize("status", [400, 403])
def test_a_moderated_input_is_about_this_input_and_not_about_the_key(body: dict[str, Any], status: int) -> None:
    failure = failing(lambda: web.json_response(body, status=status))
    assert isinstance(failure, Flagged)
    assert not failure.misconfigured
    assert not failure.maybe_billed


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("System role not supported", "system_role: user"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "system_role: user"),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", "system_role: user"),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens_field: max_completion_tokens",
        ),
        (
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
            "temperature: false",
        ),
        ("At most 1 image(s) may be provided in one request.", "fewer images a call"),
        ("this model does not support image input", "takes no images"),
        ("image input is not supported - hint: you may need to provide the mmproj", "takes no images"),
        ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens", "longer than the model's context"),
        ("the request exceeds the available context size, try increasing it", "longer than the model's context"),
        ("The model `m-7b` does not exist or you do not have access to it.", "check 'model'"),
    ],
)
def test_the_usual_refusals_come_with_the_setting_that_cures_them(words: str, advice: str) -> None:
    failure = failing(lambda: web.json_response({"error": {"message": words}}, status=400))
    assert isinstance(failure, CallerFault)
    assert advice in failure.public


@pytest.mark.parametrize(("status", "advice"), [(404, "/v1"), (415, "base_url"), (405, "/v1")])
def test_statuses_that_never_change_name_what_to_check(status: int, advice: str) -> None:
    failure = failing(lambda: web.Response(status=status))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert advice in failure.public


PROMPT = (
    "You are a radiologist.\n\nHistory: Ms Grünwald, born 1954-03-12, fell from a ladder yesterday and now has pain in her left wrist."
    "\nQuestion: What is seen?"
)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("invalid content: fell from a ladder yesterday", "invalid content: [...]"),
        ("token 'ladder' is not allowed", "token '[...]' is not allowed"),
        ("cannot parse Grünwald", "cannot parse [...]"),
        ("cannot parse Gr\\u00fcnwald", "cannot parse [...]"),
        ('bad "History: Ms Gr\\\\u00fcnwald, born 1954-03-12" here', 'bad "[...]" here'),
        ("unexpected 1954 at position 12", "unexpected [...] at position 12"),
        ("FELL FROM A LADDER", "[...]"),
        ("fell\\nfrom\\na ladder", "[...]"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 40 + " is too large", "[...] is too large"),
        ("the request needs 9000 tokens and the context has 8192", "the request needs 9000 tokens and the context has 8192"),
        ("System role not supported", "System role not supported"),
    ],
)
def test_words_are_shown_without_what_they_quote_from_the_prompt(words: str, shown: str) -> None:
    assert without_prompt(words, PROMPT) == shown


def test_a_server_that_echoes_the_request_shows_nothing_of_it() -> None:
    def echoing() -> web.Response:
        return web.json_response({"error": {"message": f"cannot handle input {json.dumps(PROMPT)} at once"}}, status=400)

    failure = failing(echoing, prompt=PROMPT)
    assert "cannot handle input" in failure.public
    for private in ("Grünwald", "1954", "ladder", "wrist", "pain"):
        assert private not in failure.public
