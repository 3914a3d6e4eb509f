import asyncio

import pytest
import ray
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTreeActor
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve._private.request_router import PendingRequest

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


class Call:
    """A method of the tree of prefixes, which is an actor elsewhere."""

    def __init__(self, method):
        self.remote = method


class Tree:
    """Ray's own tree of prefixes, in this process."""

    def __init__(self):
        self._tree = PrefixTreeActor.__ray_metadata__.modified_class()

    def __getattr__(self, name):
        return Call(getattr(self._tree, name))


class Replica:
    """As much of a replica as a router looks at."""

    max_ongoing_requests = 1_000
    node_id, availability_zone, multiplexed_model_ids, routing_stats, is_cross_language = "n", None, set(), {}, False

    def __init__(self, name):
        self.replica_id = ReplicaID(name, DeploymentID("m", "raymill"))
        self.waiting = 0

    def update_replica_info(self, *_):
        pass

    async def get_queue_len(self, **_):
        return self.waiting


@pytest.fixture
def routed(monkeypatch):
    """Sends a body to one of two replicas, and remembers it as sent; returns its name."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    first, second = Replica("first"), Replica("second")

    async def go(bodies):
        router = PrefixRouter(
            deployment_id=first.replica_id.deployment_id,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=False,
            event_loop=asyncio.get_running_loop(),
        )
        PrefixCacheAffinityRouter.initialize_state(router, imbalanced_threshold=4, tree_actor=Tree())
        router.update_replicas([first, second])
        found = []
        for body in bodies:
            request = PendingRequest(args=["completions", body], kwargs={}, metadata=RequestMetadata("1", "2"))
            ((chosen, *_), *_) = await router.choose_replicas([first, second], request)
            router.on_request_routed(request, chosen.replica_id, None)
            found.append(chosen)
        return [replica.replica_id.unique_id for replica in found]

    return lambda *bodies: asyncio.run(go(bodies)), (first, second)


def test_a_request_goes_where_its_beginning_was_read(routed):
    send, _ = routed
    a, b = ({"prompt": letter * 100} for letter in "ab")
    where = send(a, b, *[{"prompt": one["prompt"] + str(number)} for number in range(4) for one in (a, b)])
    assert set(where[:2]) == {"first", "second"}
    assert where[2:] == where[:2] * 4
    tokens = send({"prompt": [7] * 100}, {"prompt": [8] * 100}, {"prompt": [7] * 100 + [9]})
    assert tokens[2] == tokens[0] != tokens[1]


def test_a_replica_with_too_much_to_do_is_not_chosen_for_its_memory(routed):
    send, (first, second) = routed
    where = send(*[{"prompt": "a" * 100}] * 3)
    assert len(set(where)) == 1
    busy = first if where[0] == "first" else second
    busy.waiting = 5
    assert {busy.replica_id.unique_id} != set(send(*[{"prompt": "a" * 100}] * 24)), "more than 4 ahead of the other"


def test_a_request_without_a_text_goes_anywhere(routed):
    send, _ = routed
    assert set(send(*[{"prompt": ""}] * 4)) <= {"first", "second"}
