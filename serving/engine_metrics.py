"""Metrics of many engines as one Prometheus text: each family described once, each sample told apart by its labels."""

from collections.abc import Iterable

_UNWANTED = ("python_",)
_TOKENS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")


def tokens() -> float:
    """Tokens that the engine of this process has read and written so far, by vLLM's own counters."""
    from prometheus_client import REGISTRY

    counted = REGISTRY.restricted_registry(_TOKENS)
    return sum(sample.value for family in counted.collect() for sample in family.samples if sample.name in _TOKENS)


def join(texts: Iterable[str]) -> str:
    """One text of several, in which HELP and TYPE of a family stand once, before all of its samples.

    Prometheus refuses a whole scrape in which a family is described twice, or a sample is given twice.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        described: set[str] = set()
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                if family not in heads or family in described:
                    described.add(family)
                    heads.setdefault(family, []).append(line)
                samples.setdefault(family, [])
            elif line:
                name = line.partition("{")[0].partition(" ")[0]
                samples.setdefault(family if name.startswith(family) and family else name, []).append(line)
    wanted = (name for name in samples if not name.startswith(_UNWANTED) and samples[name])
    lines = (line for name in wanted for line in (*heads.get(name, ()), *samples[name]))
    return "".join(f"{line}\n" for line in lines)


def labelled(text: str, **labels: str) -> str:
    """The same with these labels on each sample. Values must be free of quotes, backslashes and line ends."""
    more = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return "".join(f"{_with(line, more)}\n" for line in text.splitlines())


def _with(line: str, more: str) -> str:
    if not line or line.startswith("#"):
        return line
    end = line.rfind("} ")
    if end < 0:
        name, _, value = line.partition(" ")
        return f"{name}{{{more}}} {value}"
    return f"{line[:end]}{',' if line[end - 1] != '{' else ''}{more}{line[end:]}"
