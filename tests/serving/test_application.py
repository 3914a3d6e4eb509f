import asyncio

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from serving import application
from serving.application import ReplicaBackend, build
from serving.auth import Key, digest
from serving.door_settings import DoorConfig
from serving.endpoint import Endpoint, ServedModel
from serving.engine import ModelConfig, Replicas
from serving.errors import ApiError, not_ready


class Replies:
    """A handle whose calls answer what a script says, one entry for each call: parts, the last of them an error."""

    def __init__(self, *calls):
        self.calls, self.made, self.cancelled = list(calls), 0, 0
        self.generate = self

    def options(self, **_):
        return self

    def remote(self, kind, body):
        self.made += 1
        return _Response(self, self.calls.pop(0))


class _Response:
    def __init__(self, replies, parts):
        self._replies, self._parts = replies, parts

    async def __aiter__(self):
        for part in self._parts:
            if isinstance(part, Exception) and not isinstance(part, ApiError):
                raise part
            yield part

    def cancel(self):
        self._replies.cancelled += 1


def answered(replies):
    async def collect():
        parts = []
        try:
            async for part in ReplicaBackend(replies).generate("completions", {"prompt": "a"}):
                parts.append(part)
        except ApiError as error:
            return parts, error.status
        return parts, 200

    return asyncio.run(collect())


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(application, "_PAUSES", (0.0, 0.0))


def test_a_replica_that_dies_before_its_first_part_is_asked_again_elsewhere():
    for failure in (ActorDiedError(), not_ready()):
        replies = Replies([failure], [failure], ["a", "b"])
        assert answered(replies) == (["a", "b"], 200)
        assert replies.made == replies.cancelled == 3, "no call may go on when nobody reads it"


def test_an_answer_that_has_begun_is_never_begun_again():
    for failure in (ActorDiedError(), not_ready()):
        replies = Replies(["a", failure], ["a", "b"])
        assert answered(replies) == (["a"], 503)
        assert replies.made == 1


def test_it_is_asked_again_so_often_and_only_for_what_may_pass():
    replies = Replies(*[[ActorDiedError()]] * 5)
    assert answered(replies) == ([], 503)
    assert replies.made == 3
    replies = Replies([ApiError(400, "no")], ["a"])
    assert answered(replies) == ([], 400)
    assert replies.made == 1


class Broadcast:
    """A handle that asks every replica."""

    def __init__(self, *answers):
        self.answers = answers

    def options(self, **_):
        return self

    def broadcast(self, method, *arguments):
        assert (method, arguments) == ("alive", ("completions", {"prompt": "a"}))
        return self

    async def results_async(self, **_):
        if not self.answers:
            raise DeploymentUnavailableError(DeploymentID("m"))
        return list(self.answers)


@pytest.mark.parametrize(
    ("answers", "lives"),
    [
        ((True, True), True),
        ((True, False), False),
        ((True, TimeoutError()), False),
        ((True, ActorDiedError()), True),
        ((ActorDiedError(),), False),
        ((), False),
    ],
)
def test_a_model_lives_when_each_replica_does_that_has_not_died(answers, lives):
    backend = ReplicaBackend(Broadcast(*answers))
    assert asyncio.run(backend.alive("completions", {"prompt": "a"})) == lives


# --- what Ray Serve is told ---------------------------------------------------------------------------------------


def endpoint(models=None, **door):
    key = Key(name="a", digest=digest("rml-0123456789abcdefghij"))
    return Endpoint(models=models or [model()], keys=[key], door=DoorConfig(**door))


def model(version="1", **more):
    config = ModelConfig(model_id="m", checkpoint="c", **more)
    return ServedModel(config=config, quantization="none", max_model_len=8, version=version, adapters={"x": ("p", "1")})


def deployments(asked):
    """Deployment by name, as Ray Serve gets them."""
    from ray.serve._private.build_app import build_app

    return {one.name: one for one in build_app(build(asked, asked.models), name="raymill").deployments}


def test_what_has_not_changed_keeps_its_version_and_runs_on():
    first, again = deployments(endpoint()), deployments(endpoint())
    assert {name: one._version for name, one in first.items()} == {name: one._version for name, one in again.items()}
    waiting = deployments(endpoint(max_waiting=1))
    assert waiting["door"]._version == first["door"]._version
    assert waiting["door"].user_config != first["door"].user_config
    assert deployments(endpoint(max_requests=1))["door"]._version != first["door"]._version
    assert deployments(endpoint([model("2")]))["model-m"]._version == "2"


def test_replicas_are_fixed_or_scale_within_their_limits():
    assert deployments(endpoint())["model-m"].num_replicas == 1
    scaled = deployments(endpoint([model(replicas=Replicas(min=0, max=3, idle_s=60))]))["model-m"]
    limits = scaled._deployment_config.autoscaling_config
    assert (limits.min_replicas, limits.max_replicas, limits.initial_replicas) == (0, 3, 1)
    assert limits.target_ongoing_requests == 8
    assert limits.downscale_delay_s == 60
    router = scaled._deployment_config.request_router_config
    assert router.request_router_class == "serving.prefix_router.PrefixRouter"
    assert scaled._deployment_config.max_surge_percent == 100


def test_an_engine_claims_the_gpus_that_it_runs_on():
    (found,) = (one for name, one in deployments(endpoint([model(device="cpu")])).items() if name != "door")
    options = found._replica_config
    assert options.ray_actor_options.get("num_gpus", 0) == 0
    assert options.placement_group_bundles == [{"CPU": 0.2}]
    asked = endpoint([model(device="gpu", tensor_parallel_size=2)])
    options = deployments(asked)["model-m"]._replica_config
    assert options.ray_actor_options["num_gpus"] == 2
    assert options.placement_group_bundles == [{"CPU": 0.2, "GPU": 2}]
    environment = options.ray_actor_options["runtime_env"]["env_vars"]
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment


def test_the_listing_is_one_the_door_takes():
    from serving.catalogue import Listing

    listing = Listing.model_validate(endpoint([model(aliases=["gpt"], replicas=Replicas(min=0, max=3))]).listing())
    assert listing.models["m"].sleeps
    assert listing.models["m"].running == 24
    assert listing.aliases == {"gpt": "m"}
