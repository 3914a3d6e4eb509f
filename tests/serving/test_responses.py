import json

import openai
import pytest

from serving.responses_request import ResponsesRequest
from tests.serving.doors import BEARER, KEY, SECRET, error_of, events_of

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":1}'}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}


@pytest.fixture
def asked(client):
    return openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0).responses


def turns(**fields):
    return ResponsesRequest.model_validate({"model": "m", "input": "hi"} | fields).chat().engine_body()["messages"]


# --- what is asked --------------------------------------------------------------------------------------------------


def test_a_conversation_with_calls_becomes_the_same_chat():
    earlier = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    earlier |= {"content": [{"type": "output_text", "text": "hm", "annotations": [], "logprobs": []}]}
    items = [
        {"role": "user", "content": "add"},
        earlier,
        CALL,
        CALL | {"call_id": "c2", "id": "fc_2", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    ]
    system, user, said, calls, one, two, last = turns(input=items, instructions="be short")
    assert system == {"role": "system", "content": "be short"}
    assert user["content"] == "add" and said == {"role": "assistant", "content": "hm"}
    assert [call["id"] for call in calls["tool_calls"]] == ["c1", "c2"]
    assert calls["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1}'}
    assert (one["role"], one["tool_call_id"], two["content"]) == ("tool", "c1", "2")
    assert last["content"] == "ab"


def test_formats_tools_and_limits_reach_the_engine_in_a_chat_s_terms(asked, parrot):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    choice = {"type": "function", "name": "add"}
    asked.create(model="parrot", input="hi", text=text, tools=[TOOL], tool_choice=choice, max_output_tokens=9)
    body = parrot.bodies[-1]
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": schema, "strict": True},
    }
    assert body["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert body["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"previous_response_id": "resp_1"}, "nothing is stored here"),
        ({"input": []}, "input: list should have at least 1 item"),
        ({"input": [{"role": "user"}]}, "input.0.content: field required."),
        ({"input": [{"type": "reasoning", "id": "x"}]}, "input.0: "),
        ({"input": [{"type": 5}]}, "input.0: "),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "sub"}}, "none of the tools has this name"),
        ({"text": {"format": {"type": "json_schema"}}}, "response_format.json_schema.name: field required"),
        ({"background": True}, "background: input should be"),
        ({"conversation": "x"}, "Unrecognized request argument: conversation."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(client, parrot, fields, words):
    response = client.post("/v1/responses", json={"model": "parrot", "input": "hi"} | fields, headers=BEARER)
    assert response.status_code == 400
    assert words in error_of(response)["message"]
    assert parrot.bodies == []


# --- what is answered -----------------------------------------------------------------------------------------------


def test_the_openai_client_reads_the_answer_and_its_counts(asked):
    found = asked.create(model="parrot", input="one two", metadata={"a": "b"})
    assert (found.output_text, found.status, found.model) == ("one two", "completed", "parrot")
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.total_tokens) == (7, 2, 9)
    assert found.metadata == {"a": "b"}
    cut = asked.create(model="parrot", input="one two", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_the_openai_client_reads_a_stream_and_puts_the_same_answer_together(asked):
    with asked.stream(model="parrot", input="one two") as stream:
        events = list(stream)
        whole = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert whole.output_text == "onetwo"
    assert whole.usage.output_tokens == 2
    assert whole.output[0].id == events[4].item_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_function_is_an_item_of_its_own(asked, stream):
    if stream:
        events = list(asked.create(model="parrot", input="call", tools=[TOOL], stream=True))
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert "".join(deltas) == done.arguments == '{"a":1}'
        found = events[-1].response
    else:
        found = asked.create(model="parrot", input="call", tools=[TOOL])
    (call,) = found.output
    assert (call.type, call.call_id, call.name, call.arguments) == ("function_call", "c1", "add", '{"a":1}')
    assert call.status == "completed"


def test_the_end_of_a_cut_stream_is_incomplete(asked):
    *_, last = asked.create(model="parrot", input="one two", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_a_stream_that_breaks_off_ends_with_an_error_event_that_tells_nothing(client, asked):
    text = client.post(
        "/v1/responses", json={"model": "parrot", "input": "a break", "stream": True}, headers=BEARER
    ).text
    last = events_of(text)[-1]
    assert (last["type"], last["code"]) == ("error", "internal_error")
    assert SECRET not in text
    *_, heard = asked.create(model="parrot", input="a break", stream=True)
    assert heard.type == "error"


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_the_first_byte_has_its_status(client, stream):
    for text, status in (("refuse", 400), ("crash", 500)):
        body = {"model": "parrot", "input": text, "stream": stream}
        assert client.post("/v1/responses", json=body, headers=BEARER).status_code == status


def test_an_empty_answer_is_an_empty_text_streamed_or_not(client):
    body = {"model": "parrot", "input": [{"role": "user", "content": " "}]}
    whole = client.post("/v1/responses", json=body, headers=BEARER).json()
    streamed = client.post("/v1/responses", json=body | {"stream": True}, headers=BEARER).text
    last = json.loads(streamed.rstrip().split("data: ")[-1])["response"]
    assert whole["output"][0]["content"][0]["text"].strip() == last["output"][0]["content"][0]["text"] == ""
