import pytest

from serving import engine_calls
from serving.errors import ApiError


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [0, 319], [[0], [319, 1]], [[]], [[], [3]]])
def test_known_tokens_and_texts_pass(prompt):
    engine_calls.require_known("prompt", prompt, 320)


@pytest.mark.parametrize("prompt", [[320], [0, 320, 1], [[0], [1, 320]], [[], [10**30]]])
def test_a_token_that_would_kill_the_engine_is_refused_wherever_it_stands(prompt):
    with pytest.raises(ApiError) as raised:
        engine_calls.require_known("prompt", prompt, 320)
    assert (raised.value.status, raised.value.param) == (400, "prompt")
    assert "320 tokens" in raised.value.message


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ("too many. (parameter=max_tokens, value=5000)", "too many."),
        ("empty (parameter=prompt)", "empty"),
        ("a (parameter=x) in the middle", "a (parameter=x) in the middle"),
        ("nothing to strip (here)", "nothing to strip (here)"),
    ],
)
def test_the_engine_s_words_lose_only_its_note_for_programmers(message, plain):
    assert engine_calls.refused(message, None).message == plain


def test_a_failure_inside_the_engine_is_told_as_ours_without_its_text():
    class Failed:
        code, message, param = 500, "/root/secret CUDA error", None

    assert "secret" not in engine_calls.as_api_error(Failed()).message
    assert engine_calls.as_api_error(Failed()).status == 500


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 1024 tokens. However, you requested 5 output tokens", True),
        ("max_tokens=5000 cannot be greater than max_model_len=1024.", True),
        ("Input length (2000) exceeds model's maximum context length (1024).", True),
        ("temperature must be non-negative", False),
    ],
)
def test_a_prompt_that_is_too_long_has_openai_s_code(message, code):
    found = engine_calls.refused(message, "input_tokens")
    assert (found.status, found.code) == (400, "context_length_exceeded" if code else None)


@pytest.mark.parametrize(
    "flags",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
    ],
)
def test_a_model_without_a_parser_of_tools_says_what_can_be_asked_of_it_and_nothing_of_vllm_s_flags(flags):
    found = engine_calls.refused(flags, None)
    assert "--" not in found.message
    assert (found.status, found.param) == (400, "tool_choice")


def test_a_grammar_that_the_engine_cannot_compile_is_the_client_s_mistake():
    class Failed:
        code, message, param = 500, "Internal server error", None

    found = engine_calls.as_api_error(Failed(), "structured_outputs")
    assert (found.status, found.param) == (400, "structured_outputs")


def test_what_a_parser_draws_under_a_grammar_becomes_one_line():
    found = engine_calls.refused("Grammar error: Parse error:\n  (\n  ^\nerror: unclosed group", None)
    assert found.message == "Grammar error: Parse error: ( ^ error: unclosed group"
    assert len(engine_calls.refused("x" * 10_000, None).message) <= 500
