"""Peak memory of the loss and its gradient at a vocabulary of 128k and 4,096 tokens: ours beside the plain form.

Each side runs in a process of its own and reports how far its peak resident memory rose over what it held before the
loss. Both hold the gradients of the hidden states and of the output matrix at the end.
"""

import multiprocessing
import resource
import statistics
import sys

import harness

TOKENS, VOCABULARY, WIDTH = 4096, 128 * 1024, 512
RUNS = 3


def peak_gib(side: str) -> float:
    """Rise of the peak in a fresh process."""
    sys.path.insert(0, str(harness.HERE.parent))
    import torch

    from training.linear_cross_entropy import loss_sum

    torch.set_num_threads(2)
    torch.manual_seed(0)
    hidden_ND = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight_VD = (torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5).requires_grad_()
    labels_N = torch.randint(0, VOCABULARY, (TOKENS,))
    (hidden_ND[:2] @ weight_VD[:8].t()).sum().backward()  # what libraries load at their first product
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "ours":
        loss = loss_sum(hidden_ND, weight_VD, labels_N)
    else:
        loss = torch.nn.functional.cross_entropy(hidden_ND @ weight_VD.t(), labels_N, reduction="sum")
    loss.backward()
    assert bool(torch.isfinite(loss))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def main() -> None:
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(RUNS):
        for side, peaks in found.items():
            with context.Pool(1) as pool:
                peaks.append(pool.apply(peak_gib, (side,)))
            print(f"{side}: {peaks[-1]:.2f} GiB")
    ratios = [own / plain for own, plain in zip(*found.values(), strict=True)]
    middle = statistics.median
    harness.write(
        "train.loss_memory", middle(ratios), middle(found["ours"]), middle(found["plain"]), ratios, unit="GiB"
    )


if __name__ == "__main__":
    main()
