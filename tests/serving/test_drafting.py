from types import SimpleNamespace

import pytest

from serving import drafting
from serving.drafting import DraftWatcher, Policy, _Watched


def spend(policy, steps, drafted, plain, way=None):
    """Let steps cost `drafted` or `plain` (seconds, tokens); returns how many had drafts."""
    count = 0
    for _ in range(steps):
        chosen = policy.choose()
        count += chosen == "draft"
        policy.observe(*(drafted if chosen == "draft" else plain), chosen == "draft")
    return count


def test_drafts_that_pay_are_made_and_the_other_way_is_only_tried():
    assert spend(Policy(), 4000, drafted=(1.2, 3), plain=(1.0, 1)) > 0.95 * 4000


def test_drafts_that_cost_more_than_they_bring_are_given_up_and_tried_again():
    count = spend(Policy(), 4000, drafted=(1.5, 1), plain=(1.0, 1))
    assert 0 < count < 0.1 * 4000


def test_a_change_of_what_is_asked_changes_the_choice():
    policy = Policy()
    spend(policy, 1000, drafted=(2.0, 1), plain=(1.0, 1))
    assert policy.choose() == "rest"
    spend(policy, 4000, drafted=(1.1, 4), plain=(1.0, 1))
    assert spend(policy, 1000, drafted=(1.1, 4), plain=(1.0, 1)) > 900


def test_where_nothing_can_be_drafted_the_way_stays_open():
    policy = Policy()
    for number in range(1000):
        assert policy.choose() == "draft"
        policy.observe(1.0 + 0.1 * (number % 7), 1, False)


class Runner:
    """The calls of vLLM's model runner that are wrapped; `clock` is what they take."""

    use_async_scheduling = False

    def __init__(self, requests=1):
        self.now = 0.0
        self.input_batch = SimpleNamespace(num_reqs=requests)
        self.drafts = []

    def step(self, tokens_each=1, prompt=0):
        ids = [str(number) for number in range(self.input_batch.num_reqs)]
        drafted = {i: [7] * len(d) for i, d in zip(ids, self.drafts, strict=False) if d}
        scheduled = SimpleNamespace(
            scheduled_spec_decode_tokens=drafted,
            num_scheduled_tokens={i: 1 + len(drafted.get(i, [])) + prompt for i in ids},
            total_num_scheduled_tokens=sum(1 + len(drafted.get(i, [])) + prompt for i in ids),
            num_spec_tokens_to_schedule=3,
        )
        self.execute_model(scheduled)
        output = self.sample_tokens(None)
        self.drafts = self.propose_draft_token_ids(scheduled, None)
        return output

    def execute_model(self, scheduled):
        self.now += 1.0 + 2.0 * len(scheduled.scheduled_spec_decode_tokens)

    def sample_tokens(self, grammar):
        return SimpleNamespace(sampled_token_ids=[[1]] * self.input_batch.num_reqs)

    def propose_draft_token_ids(self, scheduled, sampled):
        return [[5] * scheduled.num_spec_tokens_to_schedule] * self.input_batch.num_reqs


def test_an_engine_whose_drafts_are_never_accepted_stops_to_make_them():
    runner = Runner(requests=2)
    watched = _Watched(runner, clock=lambda: runner.now)
    shares = []
    for _ in range(600):
        runner.step()
        shares.append(watched.share)
    assert min(shares) < 0.2
    assert sum(shares[-250:]) / 250 < 0.3


def test_steps_with_prompts_in_them_are_no_measure():
    runner = Runner()
    watched = _Watched(runner, clock=lambda: runner.now)
    for _ in range(100):
        runner.step(prompt=50)
    assert watched.share == 1.0
    assert not watched._policies


@pytest.mark.parametrize("asynchronous", [True, False])
def test_an_engine_that_drafts_ahead_of_its_samples_is_left_alone(asynchronous):
    worker = type("Worker", (DraftWatcher,), {})()
    worker.model_runner = Runner()
    worker.model_runner.use_async_scheduling = asynchronous
    assert worker.draft_share() == 1.0
    assert worker.watch_drafts() is not asynchronous


def test_what_the_watcher_wraps_is_there_in_this_vllm():
    """Read, not imported: vLLM costs 20 s."""
    from importlib.util import find_spec
    from pathlib import Path

    root = Path(find_spec("vllm").origin).parent
    runner = (root / "v1/worker/gpu_model_runner.py").read_text()
    for part in ("def execute_model(", "def sample_tokens(", "def propose_draft_token_ids(", "use_async_scheduling"):
        assert part in runner
    assert "num_spec_tokens_to_schedule = scheduler_output.num_spec_tokens_to_schedule" in runner
    assert "worker_extension_cls" in (root / "engine/arg_utils.py").read_text()
    assert drafting.DraftWatcher.__module__ == "serving.drafting"
