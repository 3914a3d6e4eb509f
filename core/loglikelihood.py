"""Log-likelihood of continuations given contexts under a causal language model, in batches."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import UserError

# Logits of one batch stay below this many elements (256 MiB in FP32), whatever the vocabulary.
_MAX_LOGITS = 1 << 26


@dataclass(frozen=True)
class Request:
    """Token ids: score `continuation` given `context`. The context must not be empty: see `start_token`."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Score:
    """`logprob`: sum over the continuation, nats; `tokens`: how many; `is_greedy`: each was the most likely token."""

    logprob: float
    tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class _Window:
    """Tokens that fit the model at once; the last `scored` of them are scored, each from those before it."""

    request: int
    tokens: Sequence[int]
    scored: int
    last: bool


def start_token(tokenizer: Any) -> int:
    """What stands before a text's first token: the beginning-of-text token, else the end of the text before it.

    Raises UserError when the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError(f"{tokenizer.name_or_path}: the tokenizer has neither bos_token nor eos_token; set one of them")


def encode_pair(tokenizer: Any, context: str, continuation: str) -> Request:
    """Tokenise plain context and continuation as one text, cut where the context's own tokens end.

    Blanks at the end of the context go to the continuation: most vocabularies have ' word' as one token
    (lm-evaluation-harness does the same). A beginning-of-text token is added where the tokenizer adds one itself, and
    an empty context becomes the start token.
    """
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    request = encode_rendered(tokenizer, context, continuation)
    front = _added_front(tokenizer) or ([] if request.context else [start_token(tokenizer)])
    return Request([*front, *request.context], request.continuation)


def encode_rendered(tokenizer: Any, context: str, continuation: str) -> Request:
    """The same for a rendered chat template, which spells its special tokens out: none is added, nothing is moved.

    A second beginning-of-text token would lower every score; what generation would be given is what is scored.
    """
    context_ids = tokenizer.encode(context, add_special_tokens=False)
    whole = tokenizer.encode(context + continuation, add_special_tokens=False)
    return Request(whole[: len(context_ids)], whole[len(context_ids) :])


def _added_front(tokenizer: Any) -> list[int]:
    """The beginning-of-text token, if this tokenizer puts one before a text."""
    first = tokenizer.encode("a", add_special_tokens=True)[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def context_length(model: Any) -> int:
    """Positions that the model was made for."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else 1024


@torch.inference_mode()
def score(
    model: Any,
    requests: Sequence[Request],
    batch_tokens: int = 8192,
    max_length: int | None = None,
    overlap: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Score]:
    """One Score per request, in order; equal up to rounding for every batch size and order of requests.

    Rows are padded on the right, so position ids are 0, 1, 2, .. in every row and causal attention never sees the
    padding: left padding without position ids costs tens of points (lm-evaluation-harness#2583). A request longer than
    `max_length` (default: the model's positions) loses the left end of its context; a continuation that alone is longer
    is scored in windows, each with `overlap` tokens of context (default max_length / 4), every token once.
    batch_tokens: padded tokens of one forward pass at most.
    on_batch: told after each batch how many requests had their last window in it.
    """
    limit = max_length or context_length(model)
    kept = limit // 4 if overlap is None else overlap
    windows = [window for number, request in enumerate(requests) for window in _windows(number, request, limit, kept)]
    totals = [0.0] * len(requests)
    counts = [0] * len(requests)
    greedy = [True] * len(requests)
    for batch in _batches(windows, batch_tokens, model.config.get_text_config().vocab_size):
        for window, (logprob, is_greedy) in zip(batch, _score_batch(model, batch), strict=True):
            totals[window.request] += logprob
            counts[window.request] += window.scored
            greedy[window.request] &= is_greedy
        if on_batch is not None:
            on_batch(sum(window.last for window in batch))
    return [Score(*parts) for parts in zip(totals, counts, greedy, strict=True)]


def _windows(number: int, request: Request, limit: int, overlap: int) -> Iterator[_Window]:
    context, continuation = list(request.context), list(request.continuation)
    assert context, "a request needs at least one context token"
    # A forward pass over n tokens predicts tokens 1 .. n; the last one predicted is not itself an input.
    if len(continuation) <= limit:
        yield _Window(number, (context + continuation)[-(limit + 1) :], len(continuation), True)
        return
    whole, done = context[-1:] + continuation, 0
    while done < len(continuation):
        before = 1 if done == 0 else max(1, min(overlap, limit - 1))
        taken = min(limit + 1 - before, len(continuation) - done)
        end = 1 + done + taken
        done += taken
        yield _Window(number, whole[end - taken - before : end], taken, done == len(continuation))


def _batches(windows: Sequence[_Window], batch_tokens: int, vocabulary: int) -> Iterator[list[_Window]]:
    """Windows of like length together, longest first, so that running out of memory shows at once."""
    ordered = sorted((window for window in windows if window.scored), key=lambda window: -len(window.tokens))
    most = max(1, min(batch_tokens, _MAX_LOGITS // vocabulary))
    batch: list[_Window] = []
    for window in ordered:
        if batch and (len(batch) + 1) * len(batch[0].tokens) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score_batch(model: Any, batch: Sequence[_Window]) -> list[tuple[float, bool]]:
    width = len(batch[0].tokens) - 1
    tokens_BT = torch.zeros(len(batch), width, dtype=torch.long)
    for row, window in enumerate(batch):
        tokens_BT[row, : len(window.tokens) - 1] = torch.as_tensor(window.tokens[:-1])
    first = min(len(window.tokens) - 1 - window.scored for window in batch)
    keep: dict[str, int] = {"logits_to_keep": width - first} if _can_keep(model) else {}
    logits_BKV = model(input_ids=tokens_BT.to(model.device), use_cache=False, **keep).logits
    skipped = width - logits_BKV.shape[1]
    results = []
    for row, window in enumerate(batch):
        end = len(window.tokens) - 1
        logits_CV = logits_BKV[row, end - window.scored - skipped : end - skipped].float()
        target_C = torch.as_tensor(window.tokens[-window.scored :], device=logits_CV.device)
        picked_C = logits_CV.gather(1, target_C[:, None])[:, 0]
        logprob_C = picked_C - logits_CV.logsumexp(dim=1)
        is_greedy = bool((logits_CV.argmax(dim=1) == target_C).all())
        results.append((float(logprob_C.double().sum()), is_greedy))
    return results


def _can_keep(model: Any) -> bool:
    """Whether the model can skip the output layer for leading positions; most of `transformers` can."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
