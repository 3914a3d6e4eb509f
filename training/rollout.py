"""Answers sampled from the policy as it is now: by `transformers` in the training process, or by vLLM on Ray actors.

Each answer has a number of its own in the run, and its randomness comes from (seed, number) alone. With `transformers`
the same policy gives the same answers on any number of workers, but for the rounding of batched products; vLLM adds
its own scheduling. Ray and vLLM are imported only where vLLM is asked for.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from core.config import RUNTIME, Config
from core.errors import RaymillError
from training.model import bare
from training.precision import Precision
from training.world import World

_WEIGHTS = ".rollout_weights"


class RolloutConfig(Config):
    """How answers are sampled."""

    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="transformers: in the training processes; vllm: on Ray actors, with synced weights"
    )
    temperature: float = Field(1.0, gt=0, description="of the policy, in sampling and in the loss alike")
    max_new_tokens: int = Field(64, gt=0, description="longest answer")
    batch: Annotated[int, RUNTIME] = Field(128, gt=0, description="transformers: answers sampled at once")
    engines: Annotated[int, RUNTIME] = Field(1, gt=0, description="vllm: actors, each with an engine of its own")
    kv_cache_gib: Annotated[float, RUNTIME] = Field(0.5, gt=0, description="vllm: memory for keys and values, GiB")
    threads: Annotated[int, RUNTIME] = Field(0, ge=0, description="vllm: OpenMP threads of an engine; 0: all cores")


@dataclass(frozen=True)
class Request:
    """A prompt to be answered, and the number of the answer in the run."""

    prompt: Sequence[int]
    number: int


@dataclass(frozen=True)
class Completion:
    """The tokens of an answer with the sampler's own log-probability of each; `stopped`: it ended by itself."""

    tokens: list[int]
    log_p: list[float]
    stopped: bool


class Sampler(Protocol):
    """Samples from a policy; collective over the training processes."""

    sync_seconds: float
    """What it took to bring the weights to where they sample, the last time."""

    def sample(self, model: nn.Module, requests: Sequence[Request], greedy: bool = False) -> list[Completion]:
        """An answer to every request, in their order, on every rank."""
        ...

    def close(self) -> None:
        """Free what the sampler holds."""
        ...


def build(
    config: RolloutConfig,
    checkpoint: str,
    stop_tokens: Sequence[int],
    padding: int,
    context: int,
    seed: int,
    world: World,
    precision: Precision,
    directory: Path | None = None,
) -> Sampler:
    """The sampler that the configuration asks for. context: tokens of prompt and answer together, at most."""
    if config.engine == "vllm":
        assert directory is not None
        return VllmSampler(config, checkpoint, stop_tokens, context, seed, world, precision, directory)
    return TransformersSampler(config, stop_tokens, padding, seed, world, precision)


# --- transformers -------------------------------------------------------------------------------------------------


class TransformersSampler:
    """Samples in the training process, each rank its share, by inverting the distribution function of each token.

    One uniform number per token from a counter-based generator keyed by (seed, answer): the answer does not depend on
    what is sampled beside it.
    """

    def __init__(
        self,
        config: RolloutConfig,
        stop_tokens: Sequence[int],
        padding: int,
        seed: int,
        world: World,
        precision: Precision,
    ) -> None:
        self.config, self.padding, self.seed = config, padding, seed
        self.stop_tokens = torch.tensor(list(stop_tokens), device=world.device)
        self.world, self.precision = world, precision
        self.sync_seconds = 0.0

    def sample(self, model: nn.Module, requests: Sequence[Request], greedy: bool = False) -> list[Completion]:
        """See `Sampler`."""
        base = bare(model)
        training = base.training
        base.eval()
        # Prompts of one length together: less padding. The order of equal ones is that of the requests.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt))
        mine = order[self.world.rank :: self.world.size]
        found: dict[int, Completion] = {}
        for begin in range(0, len(mine), self.config.batch):
            part = mine[begin : begin + self.config.batch]
            found.update(zip(part, self._batch(base, [requests[i] for i in part], greedy), strict=True))
        for others in self.world.gather(found):
            found.update(others)
        base.train(training)
        return [found[i] for i in range(len(requests))]

    @torch.no_grad()
    def _batch(self, base: Any, requests: Sequence[Request], greedy: bool) -> list[Completion]:
        device, limit = self.world.device, self.config.max_new_tokens
        longest = max(len(request.prompt) for request in requests)
        pads = [longest - len(request.prompt) for request in requests]
        feed = torch.tensor(
            [[self.padding] * pad + list(r.prompt) for pad, r in zip(pads, requests, strict=True)], device=device
        )
        pad_R = torch.tensor(pads, device=device)
        mask = (torch.arange(longest, device=device) >= pad_R[:, None]).long()
        noise_RT = torch.from_numpy(np.stack([_uniform(self.seed, r.number, limit) for r in requests])).to(device)
        tokens_RT = torch.zeros(len(requests), limit, dtype=torch.long, device=device)
        log_p_RT = torch.zeros(len(requests), limit, device=device)
        lengths_R = torch.zeros(len(requests), dtype=torch.long, device=device)
        stopped_R = torch.zeros(len(requests), dtype=torch.bool, device=device)
        alive_A = torch.arange(len(requests), device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = None
        for t in range(limit):
            with self.precision.context():
                out = base(
                    input_ids=feed,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            cache = out.past_key_values
            log_p_AV = (out.logits[:, -1].float() / self.config.temperature).log_softmax(1)
            chosen_A = log_p_AV.argmax(1) if greedy else _invert(log_p_AV, noise_RT[alive_A, t])
            tokens_RT[alive_A, t] = chosen_A
            log_p_RT[alive_A, t] = log_p_AV.gather(1, chosen_A[:, None])[:, 0]
            lengths_R[alive_A] = t + 1
            ended_A = torch.isin(chosen_A, self.stop_tokens)
            stopped_R[alive_A] = ended_A
            going = (~ended_A).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(alive_A):
                cache.batch_select_indices(going)
                alive_A, mask, positions, chosen_A = alive_A[going], mask[going], positions[going], chosen_A[going]
            feed, positions = chosen_A[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        lengths = lengths_R.tolist()
        return [
            Completion(row[:length], probabilities[:length], stopped)
            for row, probabilities, length, stopped in zip(
                tokens_RT.tolist(), log_p_RT.tolist(), lengths, stopped_R.tolist(), strict=True
            )
        ]

    def close(self) -> None:
        """Nothing is held."""


def _uniform(seed: int, number: int, count: int) -> np.ndarray:
    """The random numbers of one answer: (count,) in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=[seed, number])).random(count)


def _invert(log_p_AV: Tensor, uniform_A: Tensor) -> Tensor:
    """The first token up to which the probabilities add up to more than a uniform number."""
    sums_AV = log_p_AV.double().exp().cumsum(1)
    chosen_A = torch.searchsorted(sums_AV, uniform_A[:, None] * sums_AV[:, -1:], right=True)[:, 0]
    return chosen_A.clamp(max=log_p_AV.shape[1] - 1)


# --- the policy's weights -----------------------------------------------------------------------------------------


@contextmanager
def merged(base: nn.Module) -> Iterator[None]:
    """Adapters added to the weights below them, for as long as the context is open; then the very same weights again.

    Subtracting what was added would leave rounding errors behind, step after step.
    """
    layers: list[Any] = [layer for layer in base.modules() if isinstance(layer, BaseTunerLayer)]
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.merge()
        try:
            yield
        finally:
            for layer, weight in zip(layers, kept, strict=True):
                layer.unmerge()
                layer.get_base_layer().weight.copy_(weight)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The policy as a plain checkpoint has it, adapters merged, on the CPU; a tied head is left out."""
    base = bare(model)
    with merged(base):
        found: dict[str, Tensor] = {}
        places: set[int] = set()
        for name, tensor in base.state_dict().items():
            if "lora_" in name or tensor.data_ptr() in places:
                continue
            places.add(tensor.data_ptr())
            found[name.replace(".base_layer.", ".")] = tensor.detach().cpu().clone()
        return found


# --- vLLM on Ray --------------------------------------------------------------------------------------------------


class VllmSampler:
    """Engines on Ray actors, started once; before each rollout they load the policy's weights from a safetensors file.

    The main rank alone talks to them. Raises RaymillError when an engine fails.
    """

    def __init__(
        self,
        config: RolloutConfig,
        checkpoint: str,
        stop_tokens: Sequence[int],
        context: int,
        seed: int,
        world: World,
        precision: Precision,
        directory: Path,
    ) -> None:
        self.config, self.seed, self.world = config, seed, world
        self.stop_tokens = list(stop_tokens)
        self.weights = directory / _WEIGHTS
        self.sync_seconds = 0.0
        self._engines: list[Any] = []
        if world.is_main:
            dtype = "bfloat16" if precision.name == "bf16 native" else "float32"
            self._engines = _start(config, checkpoint, context, dtype, seed, world)

    def sample(self, model: nn.Module, requests: Sequence[Request], greedy: bool = False) -> list[Completion]:
        """See `Sampler`."""
        found = self._sample(model, requests, greedy) if self.world.is_main else None
        shared: list[Completion] = self.world.gather(found)[0]
        return shared

    def _sample(self, model: nn.Module, requests: Sequence[Request], greedy: bool) -> list[Completion]:
        import ray
        from ray.exceptions import RayError

        began = time.perf_counter()
        self.weights.mkdir(exist_ok=True)
        save_file(weights_of(model), self.weights / "model.safetensors")
        settings = {
            "temperature": 0.0 if greedy else self.config.temperature,
            "max_tokens": self.config.max_new_tokens,
            "stop_token_ids": self.stop_tokens,
        }
        asked = [(list(request.prompt), _seed32(self.seed, request.number)) for request in requests]
        count = len(self._engines)
        try:
            ray.get([engine.load.remote(str(self.weights.absolute())) for engine in self._engines])
            self.sync_seconds = time.perf_counter() - began
            parts = ray.get([e.sample.remote(asked[n::count], settings) for n, e in enumerate(self._engines)])
        except RayError as error:
            raise RaymillError(f"a rollout engine failed: {_last_line(error)}") from error
        found: list[Completion] = [Completion([], [], False)] * len(requests)
        for number, part in enumerate(parts):
            found[number::count] = [Completion(*completion) for completion in part]
        return found

    def close(self) -> None:
        """End the actors."""
        if self._engines:
            import ray

            for engine in self._engines:
                ray.kill(engine)
            self._engines = []
            shutil.rmtree(self.weights, ignore_errors=True)


def _seed32(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _start(config: RolloutConfig, checkpoint: str, context: int, dtype: str, seed: int, world: World) -> list[Any]:
    from cluster import runtime

    runtime.connect()
    import ray
    from ray.exceptions import RayError

    gpu = ray.cluster_resources().get("GPU", 0) >= config.engines + world.size
    environment = {
        # One process per engine: its start is imports, paid once per process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(config.threads or os.cpu_count() or 1),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    arguments = {
        "model": str(Path(checkpoint).absolute()),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": context,
        "kv_cache_memory_bytes": int(config.kv_cache_gib * (1 << 30)),
        "enforce_eager": True,
        "seed": seed,
        "generation_config": "vllm",  # else the checkpoint's own top-p or top-k would change the policy
        "logprobs_mode": "processed_logprobs",  # after the temperature, as the trainer has them
        "disable_log_stats": True,
    }
    # Trainers hold the cores already and wait while the engines sample.
    actor: Any = ray.remote(num_cpus=0, num_gpus=1 if gpu else 0, runtime_env={"env_vars": environment})(Engine)
    engines = [actor.remote(arguments) for _ in range(config.engines)]
    try:
        ray.get([engine.ready.remote() for engine in engines])
    except RayError as error:
        raise RaymillError(f"a rollout engine did not start: {_last_line(error)}") from error
    return engines


def _pack_output_layer(worker: Any) -> None:
    """On a CPU the output layer multiplies by a packed copy of its weights, which vLLM 0.29 leaves as it was when they
    are tied to the embedding's (limitation 2 of vllm/model_executor/model_loader/reload)."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    for layer in worker.get_model().modules():
        if isinstance(layer, ParallelLMHead) and isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
            layer.quant_method.process_weights_after_loading(layer)


class Engine:
    """One vLLM engine, inside a Ray actor."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm import LLM

        self.engine: Any = LLM(**arguments)

    def ready(self) -> bool:
        """Answers once the engine is there."""
        return True

    def load(self, directory: str) -> None:
        """Take the weights in `directory`; what was computed with earlier ones is forgotten."""
        self.engine.collective_rpc("reload_weights", kwargs={"weights_path": directory})
        self.engine.collective_rpc(_pack_output_layer)
        self.engine.reset_prefix_cache()

    def sample(
        self, asked: Sequence[tuple[list[int], int]], settings: dict[str, Any]
    ) -> list[tuple[list[int], list[float], bool]]:
        """(tokens, log-probabilities, whether it ended by itself) for each prompt with its seed."""
        from vllm import SamplingParams

        parameters = [SamplingParams(**settings, seed=seed, logprobs=0, detokenize=False) for _, seed in asked]
        prompts: Any = [{"prompt_token_ids": prompt} for prompt, _ in asked]
        outputs = self.engine.generate(prompts, parameters, use_tqdm=False)
        found = []
        for output in outputs:
            answer = output.outputs[0]
            tokens = list(answer.token_ids)
            log_p = [float(step[token].logprob) for step, token in zip(answer.logprobs, tokens, strict=True)]
            found.append((tokens, log_p, answer.finish_reason == "stop"))
        return found
