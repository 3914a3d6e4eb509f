import json
import time
from typing import Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from serving.conversation import ChatRequest, TokenizeRequest
from serving.protocol import Body, CompletionRequest, DetokenizeRequest, EmbeddingRequest
from serving.responses_request import ResponsesRequest
from tests.serving.doors import BEARER, Parrot, listening

WRONG: list[Any] = [{} for _ in range(600_000)]  # `{},` is the shortest item: 2 MB of JSON hold so many
KEYS = {f"x{number}": "z" for number in range(200_000)}


def said(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionRequest, {"prompt": WRONG}),
        (CompletionRequest, {"prompt": [1] + ["a"] * 500_000}),
        (CompletionRequest, {"prompt": [[{}]] * 400_000}),
        (CompletionRequest, {"prompt": [[1]] * 500_000 + [[-1]]}),
        (CompletionRequest, {"prompt": "x", "stop": WRONG}),
        (CompletionRequest, {"prompt": "x", "logit_bias": KEYS}),
        (CompletionRequest, {"prompt": "x"} | KEYS),
        (EmbeddingRequest, {"input": WRONG}),
        (DetokenizeRequest, {"tokens": WRONG}),
        (DetokenizeRequest, {"tokens": [1] * 1_200_000}),
        (TokenizeRequest, {"messages": WRONG}),
        (ChatRequest, {"messages": WRONG}),
        (ChatRequest, said(WRONG)),
        (ChatRequest, {"messages": said([{}] * 300)["messages"] * 2000}),
        (ChatRequest, {"messages": [said("x")["messages"][0] | KEYS]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": WRONG}]}),
        (ChatRequest, said("x") | {"tools": WRONG}),
        (ChatRequest, said("x") | {"structured_outputs": {"choice": WRONG}}),
        (ResponsesRequest, {"input": WRONG}),
        (ResponsesRequest, {"input": said(WRONG)["messages"]}),
        (ResponsesRequest, {"input": "x", "tools": WRONG}),
        (ResponsesRequest, {"input": "x", "metadata": KEYS}),
    ],
)
def test_what_is_wrong_with_a_large_body_is_told_once(model, body):
    began = time.process_time()
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(model).validate_python({"model": "m"} | body)
    assert time.process_time() - began < 1
    assert raised.value.error_count() <= 5


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/detokenize"])
def test_two_megabytes_of_nonsense_are_refused_within_a_second(path):
    with listening({"parrot": Parrot()}, max_body_bytes=2_000_000) as (_, client):
        field = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/detokenize": "tokens"}.get(path, "messages")
        content = json.dumps({"model": "parrot", field: WRONG}, separators=(",", ":"))[:-2][:1_999_990]
        content = content[: content.rindex(",")] + "]}"
        began = time.monotonic()
        response = client.post(path, content=content, headers=BEARER | {"Content-Type": "application/json"})
        assert response.status_code == 400
        assert time.monotonic() - began < 3


def test_each_list_of_a_new_request_stops_at_its_first_wrong_item():
    class Inner(Body):
        tags: list[str]

    class Outer(Body):
        inner: list[Inner]
        words: dict[str, int] = Field(default_factory=dict, max_length=3)

    for body in ({"inner": [{"tags": [1, 2, 3]}] * 3}, {"inner": [], "words": dict.fromkeys("abcd", "z")}):
        with pytest.raises(ValidationError) as raised:
            Outer.model_validate(body)
        assert raised.value.error_count() == 1
