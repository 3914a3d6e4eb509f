"""Rewards that can be checked: numbers as they are written, code that cheats, functions that are not there."""

import numpy as np
import pytest
from pydantic import ValidationError

from core.errors import RaymillError, UserError
from training.rewards import Answer, RewardConfig, Scorer, build, code_of, same_answer, taken


def answer(text, **row):
    return Answer([{"role": "user", "content": "question"}], text, row)


def short(text, row):
    return -len(text) / row["scale"]


def given(text, row):
    return row["value"]


def nothing(text, row):
    return float("nan")


HERE = __name__


@pytest.mark.parametrize(
    ("text", "take", "right", "value"),
    [
        ("so it is\n#### 1,234", "marked", "… #### 1234", 1),
        ("#### $72.00", "marked", "72", 1),
        ("#### 72 apples", "marked", "72", 0),
        ("it is 72", "marked", "72", 0),
        ("it is 72.", "last_number", "#### 72", 1),
        ("72 and then 73", "last_number", "72", 0),
        ("-5", "last_number", "-5", 1),
        (" Paris ", "all", "Paris", 1),
        ("paris", "all", "Paris", 0),
        ("NaN", "all", "0", 0),
        ("none", "last_number", "72", 0),
    ],
)
def test_an_exact_answer_is_compared_as_it_is_meant(text, take, right, value):
    assert build(RewardConfig(kind="exact_answer", take=take))([answer(text, answer=right)]) == [value]


def test_numbers_are_equal_however_they_are_written():
    assert same_answer("1,000", "1000.0")
    assert not same_answer("1000", "100")
    assert not same_answer(None, "1")
    assert taken("#### 1\n#### 2", "marked") == "2"


def test_a_format_must_fit_the_whole_answer():
    reward = build(RewardConfig(kind="format", pattern=r"<think>.*</think>\s*\d+"))
    assert reward([answer("<think>a\nb</think> 5"), answer("<think>a</think> 5 and more")]) == [1, 0]


def test_code_is_taken_from_its_last_block():
    assert code_of("First:\n```python\na = 1\n```\nthen\n```\nb = 2\n```\n") == "b = 2\n"
    assert code_of("c = 3") == "c = 3"


def test_only_code_that_reaches_the_end_of_its_tests_passes():
    reward = build(RewardConfig(kind="unit_tests", seconds=2))
    tests = "assert double(2) == 4\nassert double(5) == 10"
    right = "```python\ndef double(x):\n    return 2 * x\n```"
    wrong = right.replace("2 * x", "4")
    leaves = right.replace("return", "import os; os._exit(0)\n    return")
    silent = "import sys\nsys.exit(0)"
    answers = [answer(text, tests=tests) for text in (right, wrong, leaves, silent, "double(")]
    assert reward(answers) == [1, 0, 0, 0, 0]


def test_each_reward_is_told_apart_and_they_add_up_by_weight():
    scorer = Scorer(
        [
            RewardConfig(kind="function", function=f"{HERE}:short", name="brevity", weight=0.5),
            RewardConfig(kind="exact_answer", take="all", weight=2.0),
        ]
    )
    (found,) = scorer([answer("4", answer="4", scale=10)])
    assert found == {"brevity": -0.1, "exact_answer": 1.0}
    assert scorer.total(found) == pytest.approx(1.95)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", "expected 'module:function'"),
        ("no_such_module_here:short", "module no_such_module_here does not import"),
        (f"{HERE}:long", "has no function long"),
    ],
)
def test_a_function_that_is_not_there_is_named(function, message):
    with pytest.raises(UserError, match=message):
        build(RewardConfig(kind="function", function=function))


def test_a_reward_that_is_no_number_ends_the_run_with_the_answer_that_got_it():
    scorer = Scorer([RewardConfig(kind="function", function=f"{HERE}:nothing")])
    with pytest.raises(RaymillError, match=r"reward function gave nan for the answer 'hello'"):
        scorer([answer("hello")])


def test_numbers_of_numpy_and_truth_values_are_numbers():
    scorer = Scorer([RewardConfig(kind="function", function=f"{HERE}:given")])
    values = [np.float32(0.5), np.int64(2), True, np.bool_(False)]
    assert [row["function"] for row in scorer([answer("a", value=value) for value in values])] == [0.5, 2.0, 1.0, 0.0]
    for value in (np.float32("inf"), "1", None):
        with pytest.raises(RaymillError, match="must be a finite number"):
            scorer([answer("a", value=value)])


def test_zero_is_a_right_answer():
    scorer = Scorer([RewardConfig(kind="exact_answer", take="all")])
    scorer.check([{"answer": 0}, {"answer": 0.0}, {"answer": False}, {"answer": "0"}])
    assert scorer([answer("0", answer=0)]) == [{"exact_answer": 1.0}]
    for row in ({"answer": None}, {"answer": ""}, {}):
        with pytest.raises(UserError, match="empty or absent"):
            scorer.check([{"answer": 1}, row])


def test_what_a_reward_needs_is_asked_for_before_the_run():
    with pytest.raises(ValidationError, match="kind format needs pattern"):
        RewardConfig(kind="format")
    with pytest.raises(ValidationError, match="no regular expression"):
        RewardConfig(kind="format", pattern="(")
    with pytest.raises(UserError, match="two of them are called format"):
        Scorer([RewardConfig(kind="format", pattern="a"), RewardConfig(kind="format", pattern="b")])
    with pytest.raises(UserError, match="reads the column solution"):
        Scorer([RewardConfig(kind="exact_answer", column="solution")]).check([{"answer": "1"}])
