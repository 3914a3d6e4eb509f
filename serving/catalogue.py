"""What the door serves, by the names that clients ask for; it may change while the door is open."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self
from weakref import WeakKeyDictionary

from pydantic import Field, model_validator

from core.config import Config
from serving import errors
from serving.admission import Gate
from serving.backend import Backend

_contexts: WeakKeyDictionary[Backend, int] = WeakKeyDictionary()
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,200}$")]


class ModelEntry(Config):
    """One model: who answers for it, and how much it takes on."""

    deployment: str = Field(description="name of the Ray Serve deployment whose replicas answer")
    running: int = Field(8, ge=1, description="requests that its replicas work on together")
    waiting: int = Field(32, ge=0, description="requests that may wait behind those")
    adapters: list[Name] = Field(default_factory=list, description="LoRA adapters that its engine knows by these names")
    task: Literal["generate", "embed"] = Field("generate", description="what its engine was started for")
    max_model_len: int | None = Field(None, ge=1, description="its context; None: its replica is asked")
    sleeps: bool = Field(False, description="it may have no replica: it counts as ready and is not woken by probes")


class Listing(Config):
    """Everything that the door serves, as plain data: what Ray Serve's `user_config` carries."""

    models: dict[Name, ModelEntry] = Field(default_factory=dict, description="by the name that its engine knows")
    aliases: dict[Name, Name] = Field(default_factory=dict, description="other names of models and adapters")

    @model_validator(mode="after")
    def _each_name_means_one_thing(self) -> Self:
        real = [*self.models, *(adapter for model in self.models.values() for adapter in model.adapters)]
        several = sorted({name for name in [*real, *self.aliases] if [*real, *self.aliases].count(name) > 1})
        if several:
            raise ValueError(f"a name of the catalogue means two things: {', '.join(several)}")
        for alias, target in self.aliases.items():
            if target not in real:
                raise ValueError(f"aliases.{alias}: {target!r} is neither a model nor an adapter")
        return self


@dataclass(frozen=True)
class Served:
    """What one name stands for."""

    name: str
    """As clients ask for it."""
    engine_name: str
    """As the engine knows it: the model's id, or an adapter's name."""
    model: str
    """The model whose queue and replicas it uses."""
    backend: Backend
    gate: Gate
    entry: ModelEntry

    @property
    def parent(self) -> str | None:
        """Of an adapter: the model that it changes."""
        return None if self.engine_name == self.model else self.model

    async def context(self) -> int:
        """Tokens of its context. A replica that has to be asked is asked once; raises what asking it does."""
        if self.entry.max_model_len is not None:
            return self.entry.max_model_len
        if self.backend not in _contexts:
            _contexts[self.backend] = (await self.backend.limits())["max_model_len"]
        return _contexts[self.backend]


class Catalogue:
    """Names to backends. One catalogue belongs to one event loop: an update is a single assignment there, so that a
    request sees the old listing or the new one and nothing between."""

    def __init__(self, connect: Callable[[str], Backend], listing: Mapping[str, Any] | None = None) -> None:
        """`connect` turns the name of a deployment into its backend; it is called once for each."""
        self._connect = connect
        self._served: dict[str, Served] = {}
        self.update(listing or {})

    def update(self, listing: Mapping[str, Any]) -> None:
        """Serve this from now on. Raises ValueError for data that are no `Listing`; the old one then stays.

        Queues and backends of models that stay are kept, so requests under way are counted on.
        """
        new = Listing.model_validate(listing)
        old = {served.model: served for served in self._served.values()}
        connected = {name: self._backend(name, model, old.get(name)) for name, model in new.models.items()}
        found: dict[str, Served] = {}
        for name, model in new.models.items():
            gate = old[name].gate if name in old else Gate(model.running, model.waiting)
            gate.resize(model.running, model.waiting)
            for engine_name in (name, *model.adapters):
                found[engine_name] = Served(engine_name, engine_name, name, connected[name], gate, model)
        for alias, target in new.aliases.items():
            served = found[target]
            found[alias] = replace(served, name=alias)
        self._served, self.listing = found, new

    def _backend(self, name: str, model: ModelEntry, old: Served | None) -> Backend:
        if old is not None and self.listing.models[name].deployment == model.deployment:
            return old.backend
        return self._connect(model.deployment)

    def resolve(self, name: str) -> Served:
        """Who answers for this name. Raises ApiError 404 when nobody does."""
        try:
            return self._served[name]
        except KeyError:
            raise errors.unknown_model(name) from None

    def names(self) -> list[str]:
        """Every name that may be asked for: models with their adapters, then aliases."""
        return list(self._served)

    def models(self) -> Iterator[Served]:
        """Each model once, without adapters and aliases."""
        return (self._served[name] for name in self.listing.models)
