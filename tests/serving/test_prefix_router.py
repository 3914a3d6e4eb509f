import pytest

from serving.prefix_router import PrefixRouter, prompt_text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "abc"}, "abc"),
        ({"prompt": ["ab", "cd"]}, "abcd"),
        ({"prompt": [1, 23]}, "1 23 "),
        ({"prompt": [[1], [2]]}, "1 2 "),
        ({"messages": [{"role": "user", "content": "hello"}]}, "hello"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]}, "ab"),
        ({"input": ["x", "y"]}, "xy"),
        ({"prompt": ""}, None),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, None),
        ({}, None),
    ],
)
def test_requests_that_begin_alike_have_texts_that_begin_alike_and_one_without_a_text_has_none(body, text):
    assert prompt_text(("chat", body)) == text


def test_other_calls_are_routed_as_ever():
    assert prompt_text(()) is None
    assert prompt_text(("metrics",)) is None


def test_the_router_reads_its_text_where_ray_asks_for_it():
    assert "_extract_text_from_request" in vars(PrefixRouter.__mro__[1])
