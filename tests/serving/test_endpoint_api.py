"""What the real endpoint offers beside plain answers: constraints, tools, responses, tokens, deadlines."""

import json
import re
import time

import httpx
import openai
import pytest

from serving.engine_metrics import join
from tests.serving.doors import error_of, events_of
from tests.serving.test_contract import EXAMPLES, OPERATIONS, hold_to_contract

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "n": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}


@pytest.fixture
def client(endpoint):
    return openai.OpenAI(base_url=endpoint.url, api_key=endpoint.key, max_retries=0, timeout=120)


@pytest.fixture
def post(endpoint):
    def send(path, headers=None, **body):
        body = {"model": endpoint.model_id} | body
        return httpx.post(f"{endpoint.root}{path}", json=body, headers=endpoint.bearer | (headers or {}), timeout=120)

    return send


def chat(client, endpoint, **more):
    asked = {"model": endpoint.model_id, "messages": MESSAGES, "max_tokens": 200, "temperature": 0} | more
    return client.chat.completions.create(**asked)


def picked(text):
    found = json.loads(text)
    assert set(found) == {"name", "n"} and found["name"] in ("ann", "bob") and found["n"] in (1, 2, 3)
    return found


# --- structured output ----------------------------------------------------------------------------------------------


def test_a_json_schema_is_followed_by_a_model_that_would_never_write_json(client, endpoint):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    whole = chat(client, endpoint, response_format=form).choices[0]
    assert whole.finish_reason == "stop"
    parts = chat(client, endpoint, response_format=form, stream=True)
    streamed = "".join(part.choices[0].delta.content or "" for part in parts)
    assert picked(streamed) == picked(whole.message.content)
    free = chat(client, endpoint, response_format={"type": "json_object"}, max_tokens=8).choices[0].message.content
    assert free.lstrip().startswith("{"), "it never ends its first name"


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"regex": r"[0-9]{3}-[a-c]{2}"}, r"[0-9]{3}-[a-c]{2}"),
        ({"choice": ["red 1", "blue 2"]}, "red 1|blue 2"),
    ],
)
def test_an_answer_stays_within_its_constraint(post, constraint, pattern):
    asked = {"max_tokens": 32, "temperature": 0, "structured_outputs": constraint}
    completed = post("/v1/completions", prompt="a", **asked).json()["choices"][0]["text"]
    answered = post("/v1/chat/completions", messages=MESSAGES, **asked).json()["choices"][0]["message"]["content"]
    for text in (completed, answered):
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("constraint", [{"regex": "("}, {"grammar": "root ::="}, {"json": {"type": 5}}])
def test_a_constraint_that_is_none_is_400_and_the_engine_lives(post, constraint):
    refused = post("/v1/completions", prompt="a", max_tokens=4, structured_outputs=constraint)
    assert refused.status_code == 400, refused.text
    assert "\n" not in error_of(refused)["message"]
    assert post("/v1/completions", prompt="a", max_tokens=1).status_code == 200


# --- tools ----------------------------------------------------------------------------------------------------------


def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(client, endpoint):
    choice = {"type": "function", "function": {"name": "pick"}}
    (call,) = chat(client, endpoint, tools=[TOOL], tool_choice=choice).choices[0].message.tool_calls
    assert call.function.name == "pick"
    picked(call.function.arguments)
    for streamed in (choice, "required"):  # of several calls, which this model would go on with for ever, the first
        calls = [
            piece
            for part in chat(client, endpoint, tools=[TOOL], tool_choice=streamed, stream=True)
            for piece in part.choices[0].delta.tool_calls or ()
            if piece.index == 0
        ]
        assert calls[0].function.name == "pick"
        picked("".join(piece.function.arguments or "" for piece in calls))


def test_a_conversation_with_calls_and_their_answers_goes_on(client, endpoint):
    call = {"id": "c1", "type": "function", "function": {"name": "pick", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "be brief"},
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ann"},
    ]
    found = chat(client, endpoint, messages=messages, tools=[TOOL], tool_choice="auto", max_tokens=4)
    assert found.usage.completion_tokens == 4


# --- chat -----------------------------------------------------------------------------------------------------------


def test_choices_seeds_and_log_probabilities_of_a_chat(client, endpoint):
    asked = {"n": 2, "seed": 3, "temperature": 1, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    one, two = chat(client, endpoint, **asked), chat(client, endpoint, **asked)
    assert [choice.message.content for choice in one.choices] == [choice.message.content for choice in two.choices]
    assert [choice.index for choice in one.choices] == [0, 1]
    for choice in one.choices:
        assert len(choice.logprobs.content) == 6
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in choice.logprobs.content)


# --- responses ------------------------------------------------------------------------------------------------------


def test_a_response_is_the_chat_s_answer_streamed_or_not(client, endpoint):
    told = chat(client, endpoint, max_tokens=12).choices[0].message.content
    asked = {"model": endpoint.model_id, "input": "hello", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked)
    assert (whole.output_text, whole.status, whole.usage.output_tokens) == (told, "incomplete", 12)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == told
    assert events[-1].response.usage == whole.usage
    form = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    picked(client.responses.create(model=endpoint.model_id, input="hello", text=form, temperature=0).output_text)


# --- tokens, embeddings ---------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_checkpoint_s_tokenizer_and_come_back_as_text(endpoint, post):
    from core import checkpoint

    tokenizer = checkpoint.load_tokenizer(endpoint.checkpoint)
    text = "json.dumps é\n"
    found = post("/tokenize", prompt=text, return_token_strs=True).json()
    assert found["tokens"] == tokenizer.encode(text)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 1024
    assert post("/detokenize", tokens=found["tokens"]).json() == {"prompt": text}
    turns = post("/tokenize", messages=MESSAGES).json()["count"]
    answered = post("/v1/chat/completions", messages=MESSAGES, max_tokens=1).json()
    assert turns == answered["usage"]["prompt_tokens"]
    assert error_of(post("/detokenize", tokens=[5, 320]))["param"] == "tokens"


def test_a_model_that_writes_says_that_it_does_not_embed(client, endpoint):
    with pytest.raises(openai.BadRequestError, match="does not support the 'embed' task"):
        client.embeddings.create(model=endpoint.model_id, input="hello")


def test_a_model_for_embeddings_beside_it_embeds_and_does_not_write(client, endpoint, post, quantized, tmp_path):
    from serving import update
    from serving.engine import ModelConfig
    from serving.up_config import UpConfig
    from tests.serving.conftest import served_model

    vectors = ModelConfig(
        model_id="vectors",
        checkpoint=str(quantized.original),
        dtype="float32",
        max_num_seqs=4,
        kv_cache_gib=0.05,
        task="embed",
    )
    asked = {"output": str(tmp_path), "port": endpoint.port, "max_waiting": 2, "max_body_bytes": 100_000}
    update.update(UpConfig(models=[served_model(quantized), vectors], **asked))
    try:
        one, two = client.embeddings.create(model="vectors", input=["one", "two"], encoding_format="float").data
        assert len(one.embedding) == len(two.embedding) == 64
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-3)
        assert one.embedding != two.embedding
        packed = client.embeddings.create(model="vectors", input="one")  # base64, which the client asks for by itself
        assert packed.data[0].embedding == pytest.approx(one.embedding, abs=1e-4)
        assert packed.usage.prompt_tokens == post("/tokenize", prompt="one").json()["count"]
        assert error_of(post("/v1/embeddings", model="vectors", input=[5, 320]))["param"] == "input"
        too_long = error_of(post("/v1/embeddings", model="vectors", input="a b" * 2000))
        assert too_long["code"] == "context_length_exceeded"
        for path, fields in (("completions", {"prompt": "a"}), ("chat/completions", {"messages": MESSAGES})):
            refused = post(f"/v1/{path}", model="vectors", **fields)
            assert refused.status_code == 400 and "does not support" in error_of(refused)["message"]
        assert httpx.get(f"{endpoint.root}/ready", timeout=60).status_code == 200
    finally:
        update.update(UpConfig(models=[served_model(quantized)], **asked))


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a b" * 2000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b" * 2000}]}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5000}),
        ("/v1/responses", {"input": "a b" * 2000, "stream": True}),
    ],
)
def test_what_does_not_fit_the_context_has_openai_s_code(post, path, fields):
    refused = post(path, **fields)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "context_length_exceeded")


def test_a_deadline_ends_the_engine_s_work(endpoint, post):
    patience = {"X-Stainless-Read-Timeout": "0.2"}
    refused = post("/v1/completions", patience, prompt="a", max_tokens=1000, ignore_eos=True)
    assert (refused.status_code, error_of(refused)["code"]) == (504, "timeout")
    deadline = time.monotonic() + 30
    while "vllm:num_requests_running" in (text := metrics(endpoint)) and running(text) > 0:
        assert time.monotonic() < deadline, "the engine works on for nobody"
        time.sleep(0.2)


def metrics(endpoint):
    return httpx.get(f"{endpoint.root}/metrics", headers=endpoint.bearer, timeout=30).text


def running(text):
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_requests_running{"))


def test_metrics_of_door_and_engine_are_one_text_with_every_family_once(endpoint, post):
    text = post("/v1/completions", prompt="a b", max_tokens=3, stream=True).text
    assert len(events_of(text)) >= 2
    found = metrics(endpoint)
    assert join([found]) == found
    heads = [line.split()[2] for line in found.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    for name in ("raymill_time_to_first_token_seconds", "raymill_door_seconds", "vllm:time_to_first_token_seconds"):
        assert name in heads
    assert 'raymill_requests_total{key="alice",model="speller",route="/v1/completions",status="200"}' in found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_made_up_requests_bring_no_5xx_from_the_engine_either(endpoint, operation):
    hold_to_contract(operation, endpoint.root, endpoint.bearer, endpoint.model_id, EXAMPLES)
    assert httpx.get(f"{endpoint.root}/ready", timeout=60).status_code == 200
