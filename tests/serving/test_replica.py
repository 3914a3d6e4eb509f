import subprocess
import sys
import tempfile

import pytest

from serving import replica
from serving.errors import ApiError


def test_the_door_and_the_driver_do_not_import_the_engine():
    """vLLM costs every process that imports it 20 s."""
    code = "import sys, serving.lifecycle, serving.up; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [0, 319], [[0], [319, 1]], [[]], [[], [3]]])
def test_known_tokens_and_texts_pass(prompt):
    replica._require_known(prompt, 320)


@pytest.mark.parametrize("prompt", [[320], [0, 320, 1], [[0], [1, 320]], [[], [10**30]]])
def test_a_token_that_would_kill_the_engine_is_refused_wherever_it_stands(prompt):
    with pytest.raises(ApiError) as raised:
        replica._require_known(prompt, 320)
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
    assert replica._plain(message) == plain


def test_the_reason_of_a_failed_start_is_the_root_cause_and_not_the_wrapper():
    """In a process whose error log is a file, as a replica's is."""
    code = (
        "import sys; from serving import replica\n"
        "print('old ValueError: of an earlier start', file=sys.stderr, flush=True)\n"
        "mark = replica._log_size()\n"
        "print('(EngineCore pid=1) ValueError: No memory for the cache blocks', file=sys.stderr)\n"
        "print('RuntimeError: Engine core initialization failed. See root cause.', file=sys.stderr, flush=True)\n"
        "print(replica._reason(RuntimeError('Engine core initialization failed.'), mark))\n"
        "print(replica._reason(ValueError('1 error\\n  Value error, too long [type=x]'), mark))\n"
    )
    with tempfile.TemporaryFile() as log:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, text=True, check=True)
    assert done.stdout.splitlines() == ["ValueError: No memory for the cache blocks", "too long"]


def test_a_failure_inside_the_engine_is_told_as_ours_without_its_text():
    class Failed:
        code, message, param = 500, "/root/secret CUDA error", None

    assert "secret" not in replica._as_api_error(Failed()).message
    assert replica._as_api_error(Failed()).status == 500
