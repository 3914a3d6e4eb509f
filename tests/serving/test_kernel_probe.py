"""The tables of the preflight beside the checks of vLLM's own kernels."""

import pytest

from serving import preflight
from serving.hardware import PROFILES


@pytest.mark.slow
def test_the_tables_say_what_the_kernels_of_the_installed_vllm_say(vllm_asked):
    answers = vllm_asked["kernels"]
    wrong = []
    for name, by_kind in answers.items():
        assert set(by_kind) == set(PROFILES)
        for kind, (ok, kernel) in by_kind.items():
            ours = preflight.runs(name, PROFILES[kind])
            if ours.ok != ok and (name, kind) not in preflight.PROMISED:
                wrong.append(f"{name} on {kind}: vLLM says {ok} ({kernel}), we say {ours}")
    assert wrong == []
    assert all(answers[name][kind][0] for name, kind in preflight.PROMISED), (
        "what is mended there is no exception any more"
    )


@pytest.mark.slow
def test_the_answers_do_not_depend_on_the_machine_that_asks(vllm_asked):
    assert vllm_asked["kernels"] == vllm_asked["kernels_elsewhere"]
