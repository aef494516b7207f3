"""The three forms of the fake batch API: how each provider writes requests, states, results and errors."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.support.endpoint import completion

FORMS = ("openai", "anthropic", "gemini")
NOT_IN = {"openai": set(), "anthropic": {"upload_429", "upload_500", "queue_full"}, "gemini": set()}
"""Faults that a form does not have: Anthropic's batches contain their requests."""


class OpenAIForm:
    """Lines with ``custom_id``, ``body`` and ``response``."""

    base = "/v1"
    cut_short = True
    """Whether a batch that expired or was cancelled keeps its answers."""

    def requests(self, data: bytes) -> list[tuple[str, dict[str, Any]]]:
        """Keys, and bodies as those of chat completions."""
        lines = [json.loads(line) for line in data.splitlines()]
        return [(line["custom_id"], line["body"]) for line in lines]

    def answer(self, key: str, text: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = completion(text, model=body["model"], prompt_tokens=len(json.dumps(body)) // 4)
        return {"id": "batch_req_1", "custom_id": key, "response": {"status_code": 200, "request_id": "r", "body": reply}, "error": None}

    def failed(self, key: str) -> dict[str, Any]:
        response = {"status_code": 500, "body": {"error": {"message": "out of luck"}}}
        return {"id": "batch_req_1", "custom_id": key, "response": response, "error": None}

    def not_run(self, key: str, word: str) -> dict[str, Any] | None:
        return {"id": "batch_req_1", "custom_id": key, "response": None, "error": {"code": f"batch_{word}", "message": "not run"}}

    def state(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name not in {"polls", "keys", "results"}}

    def error(self, status: int) -> dict[str, Any]:
        del status
        return {"error": {"message": "no luck", "code": "no_luck"}}


class AnthropicForm:
    """Requests with ``params``, and results by type."""

    base = "/v1"
    cut_short = True

    def requests(self, data: bytes) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for line in data.splitlines():
            request = json.loads(line)
            params = request["params"]
            assert params["max_tokens"] >= 1
            system = [{"role": "system", "content": params["system"]}] if "system" in params else []
            turns = [{**turn, "content": _as_image_urls(turn["content"])} for turn in params["messages"]]
            found.append((request["custom_id"], {**params, "messages": [*system, *turns]}))
        return found

    def answer(self, key: str, text: str, body: Mapping[str, Any]) -> dict[str, Any]:
        usage = completion(text, model=body["model"], prompt_tokens=len(json.dumps(body)) // 4)["usage"]
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
        }  # fmt: skip
        return {"custom_id": key, "result": {"type": "succeeded", "message": message}}

    def failed(self, key: str) -> dict[str, Any]:
        return {"custom_id": key, "result": {"type": "errored", "error": self.error(500)}}

    def not_run(self, key: str, word: str) -> dict[str, Any] | None:
        return {"custom_id": key, "result": {"type": {"cancelled": "canceled"}.get(word, word)}}

    def state(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        ended, total = batch["status"] != "in_progress", len(batch["keys"])
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts |= {"processing": 0 if ended else total}
        if ended:
            short = {"cancelled": "canceled"}.get(batch["status"], batch["status"])
            counts["succeeded"] = batch["request_counts"]["completed"]
            counts[short if short in counts else "errored"] += total - counts["succeeded"]
        moment, results = "2026-11-26T12:00:00Z", f"https://elsewhere.example/{batch['id']}/results"
        return {
            "id": batch["id"], "type": "message_batch", "processing_status": "ended" if ended else "in_progress", "request_counts": counts,
            "created_at": moment, "expires_at": "2026-11-27T12:00:00Z", "ended_at": moment if ended else None, "archived_at": None,
            "cancel_initiated_at": None, "results_url": results if ended and batch["status"] != "archived" else None,
        }  # fmt: skip

    def error(self, status: int) -> dict[str, Any]:
        kinds = {404: "not_found_error", 429: "rate_limit_error", 500: "api_error"}
        return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": "no luck"}, "request_id": None}


class GeminiForm:
    """Lines with ``key``, ``request`` and ``response``; a batch that expired or was cancelled has no results at all."""

    base = "/v1beta/openai"
    cut_short = False

    def requests(self, data: bytes) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for line in data.splitlines():
            entry = json.loads(line)
            request = entry["request"]
            system = request.get("systemInstruction")
            turns = [*([{**system, "role": "system"}] if system else []), *request["contents"]]
            messages = [{"role": turn["role"], "content": _chat_content(turn["parts"])} for turn in turns]
            generation = request["generationConfig"]
            body = {
                "model": "m",
                "messages": messages,
                "temperature": generation["temperature"],
                "max_tokens": generation["maxOutputTokens"],
            }
            found.append((entry["key"], body))
        return found

    def answer(self, key: str, text: str, body: Mapping[str, Any]) -> dict[str, Any]:
        usage = completion(text, model=body["model"], prompt_tokens=len(json.dumps(body)) // 4)["usage"]
        prompt, output = usage["prompt_tokens"], usage["completion_tokens"]
        response = {
            "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": output, "totalTokenCount": prompt + output},
            "modelVersion": body["model"], "responseId": "r",
        }  # fmt: skip
        return {"key": key, "response": response}

    def failed(self, key: str) -> dict[str, Any]:
        return {"key": key, "error": {"code": 13, "message": "out of luck"}}

    def not_run(self, key: str, word: str) -> dict[str, Any] | None:
        del key, word
        return None

    def state(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        word = {"in_progress": "RUNNING", "completed": "SUCCEEDED"}.get(batch["status"], batch["status"].upper())
        total, counts = len(batch["keys"]), batch["request_counts"]
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch", "model": f"models/{batch['model']}",
            "displayName": batch["name"], "createTime": "2026-11-26T12:00:00Z", "name": batch["id"], "state": f"BATCH_STATE_{word}",
            "inputConfig": {"fileName": batch["input_file_id"]},
            "batchStats": {"requestCount": str(total), "successfulRequestCount": str(counts["completed"])},
        }  # fmt: skip
        state: dict[str, Any] = {"name": batch["id"], "metadata": metadata}
        if word != "RUNNING":
            state["done"] = True
        if word == "FAILED":
            state["error"] = {"code": batch.get("code", 3), "message": batch["errors"]["data"][0]["message"], "status": "INVALID_ARGUMENT"}
        if batch.get("output_file_id"):
            place = state.setdefault("response", {}) if batch.get("in_response") else metadata.setdefault("output", {})
            place["responsesFile"] = batch["output_file_id"]
        return state

    def error(self, status: int) -> dict[str, Any]:
        return {"error": {"code": status, "message": "no luck", "status": {429: "RESOURCE_EXHAUSTED"}.get(status, "INTERNAL")}}


def _as_image_urls(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Anthropic's blocks as the content of a chat message."""
    if isinstance(content, str):
        return content
    return [block if block["type"] == "text" else {"type": "image_url", "image_url": {"url": "data:"}} for block in content]


def _chat_content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Gemini's parts as the content of a chat message."""
    if all("text" in part for part in parts):
        return "".join(part["text"] for part in parts)
    images = [part.get("fileData", {}).get("fileUri", "data:") for part in parts]
    return [
        {"type": "text", **part} if "text" in part else {"type": "image_url", "image_url": {"url": image}}
        for part, image in zip(parts, images, strict=True)
    ]


def images_in(body: Mapping[str, Any]) -> list[str]:
    """Names of the files that a request to Gemini refers to."""
    return re.findall(r"/v1beta/files/([a-z0-9-]+)", json.dumps(body["messages"]))


def form_named(name: str) -> OpenAIForm | AnthropicForm | GeminiForm:
    if name == "openai":
        return OpenAIForm()
    return AnthropicForm() if name == "anthropic" else GeminiForm()
