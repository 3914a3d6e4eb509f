import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.protocol import ChatRequest, CompletionRequest, describe

HELLO = [{"role": "user", "content": "hello"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def chat(**fields):
    return {"model": "m", "messages": HELLO} | fields


def completion(**fields):
    return {"model": "m", "prompt": "hello"} | fields


def refusal(model, body):
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)
    return describe(raised.value.errors())


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"messages": HELLO}, "model: field required.", "model"),
        (chat(messages=[]), "messages: list should have at least 1 item after validation, not 0.", "messages"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "messages.0.role: input should be", "messages.0.role"),
        (chat(messages=[{"role": "user"}]), "messages.0.content: field required.", "messages.0.content"),
        (chat(messages=[*HELLO, {"role": "user", "content": 5}]), "messages.1.content: input", "messages.1.content"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages.0.content.0.type: input should be 'text'.",
            "messages.0.content.0.type",
        ),
        (chat(max_tokens=0), "max_tokens: input should be greater than or equal to 1.", "max_tokens"),
        (chat(temperature=2.5), "temperature: input should be less than or equal to 2.", "temperature"),
        (chat(temperature=float("nan")), "temperature: input should be", "temperature"),
        (chat(top_p=0), "top_p: input should be greater than 0.", "top_p"),
        (chat(n=17), "n: input should be less than or equal to 16.", "n"),
        (chat(top_logprobs=21), "top_logprobs: input should be less than or equal to 20.", "top_logprobs"),
        (chat(stop=list("abcdefghi")), "stop: list should have at most 8 items", "stop"),
        (chat(stop=[1]), "stop.0: input should be a valid string.", "stop.0"),
        (chat(tools=[]), "Unrecognized request argument: tools.", "tools"),
        (
            chat(stream=True, stream_options={"x": 1}),
            "Unrecognized request argument: stream_options.x.",
            "stream_options.x",
        ),
    ],
)
def test_a_refused_chat_is_told_which_field_and_why(body, message, param):
    found, where = refusal(ChatRequest, body)
    assert found.startswith(message)
    assert where == param


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"model": "m"}, "prompt: field required.", "prompt"),
        (completion(prompt=5), "prompt: input should be a valid string.", "prompt"),
        (completion(prompt=["a", 5]), "prompt.1: input should be a valid string.", "prompt.1"),
        (completion(prompt=[3, -1]), "prompt.1: input should be greater than or equal to 0.", "prompt.1"),
        (completion(prompt=[[3], [-1]]), "prompt.1.0: input should be greater than or equal to 0.", "prompt.1.0"),
        (completion(prompt=["a"] * 257), "prompt: one request may hold 256 prompts, not 257.", "prompt"),
        (completion(prompt=[]), "prompt: the list is empty.", "prompt"),
        (completion(logprobs=True, max_tokens=-1), "max_tokens: input should be greater", "max_tokens"),
    ],
)
def test_a_refused_completion_is_told_which_field_and_why(body, message, param):
    found, where = refusal(CompletionRequest, body)
    assert found.startswith(message)
    assert where == param


@pytest.mark.parametrize(
    "field",
    [
        *("chat_template", "chat_template_kwargs", "kv_transfer_params", "priority", "vllm_xargs", "request_id"),
        *("cache_salt", "logits_processors", "mm_processor_kwargs", "return_token_ids", "prompt_logprobs"),
        *("structured_outputs", "response_format", "tools", "documents", "add_special_tokens"),
    ],
)
def test_what_the_engine_takes_beyond_the_protocol_never_reaches_it(field):
    for model, body in ((ChatRequest, chat()), (CompletionRequest, completion())):
        message, param = refusal(model, body | {field: 1})
        assert (message, param) == (f"Unrecognized request argument: {field}.", field)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_shape_of_prompt_goes_on_as_it_came(prompt):
    assert CompletionRequest.model_validate(completion(prompt=prompt)).engine_body()["prompt"] == prompt


def test_text_parts_go_on_as_they_came():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = chat(messages=[{"role": "user", "content": parts}])
    assert ChatRequest.model_validate(body).engine_body()["messages"] == body["messages"]


def test_the_engine_gets_what_the_client_set_and_the_user_stays_here():
    body = chat(max_tokens=5, temperature=0, stop=["\n"], seed=1, user="alice@example.com")
    sent = ChatRequest.model_validate(body).engine_body()
    assert sent == {key: value for key, value in body.items() if key != "user"} | {"stream": False, "n": 1}


def test_sampling_that_the_client_left_out_is_left_to_the_model():
    """The checkpoint's generation_config.json holds the defaults: a value of ours would hide them."""
    assert set(CompletionRequest.model_validate(completion()).engine_body()) == {"model", "prompt", "stream", "n"}


@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON, max_size=6), st.booleans())
def test_weird_json_is_taken_or_refused_in_one_readable_line(body, complete):
    body = chat(**body) if complete else body
    for model in (ChatRequest, CompletionRequest):
        try:
            json.dumps(model.model_validate(body).engine_body())
        except ValidationError as error:
            message, _ = describe(error.errors())
            assert "\n" not in message
            assert message.endswith(".")
            assert len(message) < 300


@given(JSON)
def test_a_body_that_is_no_request_at_all_is_refused(body):
    message, _ = refusal(ChatRequest, body)
    assert message
