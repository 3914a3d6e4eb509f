"""Which replica answers: one that has read the same beginning before, unless others have much less to do."""

from typing import Any

import ray
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTreeActor
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE


class PrefixRouter(PrefixCacheAffinityRouter):
    """`ray.serve.llm`'s router, for calls of (kind, body) instead of request objects.

    It fails on a request without a text: an attribute that it looks for is missing, or it divides by a length of 0.
    Its tree asks for a whole CPU of Ray's, and every request would wait for ever where the engines claim them all.
    """

    def initialize_state(self, imbalanced_threshold: float) -> None:  # type: ignore[override]
        """imbalanced_threshold: so many requests more than another, and a replica is not chosen for its memory."""
        actor: Any = PrefixTreeActor
        tree = actor.options(
            name=f"prefixes of {self._deployment_id}",
            namespace=SERVE_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
        ).remote()
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller._register_shutdown_cleanup_actor.remote(tree))
        super().initialize_state(imbalanced_threshold=imbalanced_threshold, do_eviction=True, tree_actor=tree)

    def _extract_text_from_request(self, pending_request: Any) -> Any:
        return prompt_text(pending_request.args)


def prompt_text(arguments: Any) -> str | None:
    """The text of `generate(kind, body)`, its tokens as numbers; None when there is none, or it is no such call."""
    if len(arguments) < 2 or not isinstance(arguments[1], dict):
        return None
    body = arguments[1]
    return _flat(body.get("messages") or body.get("prompt") or body.get("input")) or None


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value} "
    if isinstance(value, dict):
        return _flat(value.get("content") or value.get("text"))
    return "".join(map(_flat, value)) if isinstance(value, list) else ""
