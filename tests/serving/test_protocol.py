import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.conversation import ChatRequest, TokenizeRequest
from serving.protocol import CompletionRequest, DetokenizeRequest, EmbeddingRequest, describe

HELLO = [{"role": "user", "content": "hello"}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "default": None}}}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def chat(**fields):
    return {"model": "m", "messages": HELLO} | fields


def completion(**fields):
    return {"model": "m", "prompt": "hello"} | fields


def named(name):
    return {"type": "function", "function": {"name": name}}


def refusal(model, body):
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)
    return describe(raised.value.errors())


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"messages": HELLO}, "model: field required.", "model"),
        (chat(messages=[]), "messages: list should have at least 1 item after validation, not 0.", "messages"),
        (chat(messages=[{"role": "robot", "content": "x"}]), "messages.0.role: input should be", "messages.0.role"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "messages.0: tool_call_id belongs to", "messages.0"),
        (chat(messages=[{"role": "user"}]), "messages.0: content is missing.", "messages.0"),
        (chat(messages=[{"role": "user", "tool_calls": CALLS}]), "messages.0: content is missing.", "messages.0"),
        (
            chat(messages=[{"role": "user", "content": "x", "tool_calls": CALLS}]),
            "messages.0: tool_calls belong to the role assistant.",
            "messages.0",
        ),
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
        (chat(tools=[]), "tools: list should have at least 1 item", "tools"),
        (chat(tools=TOOLS, tool_choice="any"), "tool_choice: input should be 'none', 'auto'", "tool_choice"),
        (chat(tools=TOOLS, tool_choice=named("sub")), "Tool_choice: none of the tools has this name.", None),
        (chat(tool_choice="auto"), "Tool_choice: there are no tools.", None),
        (chat(tools=[{"type": "web_search"}]), "tools.0.type: input should be 'function'.", "tools.0.type"),
        (chat(seed=10**30), "seed: input should be", "seed"),
        (chat(logit_bias={"x": 1}), "logit_bias.x: string should match", "logit_bias.x"),
        (chat(response_format={"type": "json_schema"}), "response_format: json_schema belongs", "response_format"),
        (chat(structured_outputs={}), "structured_outputs: exactly one of", "structured_outputs"),
        (
            chat(structured_outputs={"regex": "a", "choice": ["b"]}),
            "structured_outputs: exactly one of",
            "structured_outputs",
        ),
        (
            chat(structured_outputs={"structural_tag": "x"}),
            "Unrecognized request argument: structured_outputs.structural_tag.",
            "structured_outputs.structural_tag",
        ),
        (chat(stream_options={"include_usage": True}), "Stream_options: only with stream: true.", None),
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
        *("documents", "add_special_tokens", "stop_token_ids", "truncate_prompt_tokens", "use_beam_search"),
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
    for model in (ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest, DetokenizeRequest):
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


def test_a_conversation_with_tools_goes_on_as_it_came():
    messages = [
        *HELLO,
        {"role": "assistant", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    body = chat(messages=messages, tools=TOOLS, tool_choice=named("add"), parallel_tool_calls=False)
    sent = ChatRequest.model_validate(body).engine_body()
    assert {name: sent[name] for name in body} == body


def test_an_answer_may_be_sent_back_as_the_openai_client_keeps_it():
    """With the fields that it has no value for."""
    answer = {"role": "assistant", "content": "hi", "refusal": None, "annotations": None, "audio": None}
    answer |= {"function_call": None, "tool_calls": None, "reasoning": None}
    sent = ChatRequest.model_validate(chat(messages=[*HELLO, answer])).engine_body()
    assert sent["messages"][1] == {"role": "assistant", "content": "hi"}


def test_a_developer_is_a_system_to_the_template():
    sent = ChatRequest.model_validate(chat(messages=[{"role": "developer", "content": "x"}])).engine_body()
    assert sent["messages"] == [{"role": "system", "content": "x"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [None]}}}},
        {"response_format": {"type": "json_object"}},
        *({"structured_outputs": given} for given in ({"regex": "a+"}, {"choice": ["a"]}, {"json": {"type": "null"}})),
    ],
)
def test_structured_output_keeps_the_names_that_the_engine_knows(fields):
    for model, body in ((ChatRequest, chat()), (CompletionRequest, completion())):
        sent = model.model_validate(body | fields).engine_body()
        assert {name: sent[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "Either prompt or messages."),
        ({"model": "m", "prompt": "a", "messages": HELLO}, "Either prompt or messages."),
        ({"model": "m", "prompt": "a", "tools": TOOLS}, "Tools and add_generation_prompt belong to messages."),
        ({"model": "m", "messages": HELLO, "chat_template": "x"}, "Unrecognized request argument: chat_template."),
    ],
)
def test_what_is_to_be_tokenized_is_a_text_or_a_conversation(body, message):
    assert refusal(TokenizeRequest, body)[0] == message


@pytest.mark.parametrize(
    ("model", "body", "asked"),
    [
        (ChatRequest, chat(), 0),
        (ChatRequest, chat(n=2, max_tokens=5), 10),
        (ChatRequest, chat(max_tokens=5, max_completion_tokens=7), 7),
        (CompletionRequest, completion(), 16),
        (CompletionRequest, completion(prompt=["a", "b"], n=2, max_tokens=5), 20),
        (CompletionRequest, completion(max_tokens=0), 0),
        (EmbeddingRequest, {"model": "m", "input": "a"}, 0),
    ],
)
def test_how_much_an_answer_may_cost_is_known_before_it_is_made(model, body, asked):
    assert model.model_validate(body).tokens_asked() == asked


@pytest.mark.parametrize("name", ["x" * 10_000, "a\nb", "\x1b[31m", "\u2028"])
def test_a_made_up_field_is_named_shortly_and_on_one_line(name):
    message, param = refusal(ChatRequest, chat(**{name: 1}))
    assert message.isprintable() and len(message) < 200
    assert param is None or len(param) <= 100


def test_one_request_cannot_ask_for_thousands_of_answers():
    found, _ = refusal(CompletionRequest, completion(prompt=["a"] * 200, n=2))
    assert "256 answers in all, not 400" in found
