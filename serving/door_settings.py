"""What a user may set of the door. None of it decides what a model answers, so none of it outdates an artifact."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from core.config import RUNTIME, Config


class DoorConfig(Config):
    """Limits, keys, files and addresses of the door."""

    keys_file: Annotated[str | None, RUNTIME] = Field(
        None,
        description="bearer keys, one on each line, or YAML with names and quotas; it is read again when it changes; "
        "None: a fresh key, kept in the run directory",
    )
    max_waiting: Annotated[int, RUNTIME] = Field(
        32, ge=0, description="requests that may wait behind max_num_seqs running ones; more are answered 429"
    )
    max_requests: Annotated[int, RUNTIME] = Field(
        1024, ge=1, description="requests inside the door together, of all models; more are answered 429"
    )
    max_body_bytes: Annotated[int, RUNTIME] = Field(2_000_000, ge=1024, description="largest request body")
    max_connections: Annotated[int | None, RUNTIME] = Field(
        None,
        ge=1,
        description="open connections; those beyond it are answered 503, but on /health. None: 2,048, or half of the "
        "files that the process may open",
    )
    body_timeout_s: Annotated[float, RUNTIME] = Field(
        20.0, gt=0, description="how long a client may take to send its request body"
    )
    request_timeout_s: Annotated[float, RUNTIME] = Field(
        600.0, gt=0, description="how long an answer may take, queue and stream included"
    )
    cors_origins: Annotated[list[str], RUNTIME] = Field(
        default_factory=list, description="origins whose pages may ask from a browser; empty: none"
    )
    tls_certificate: Annotated[str | None, RUNTIME] = Field(None, description="PEM file with the chain; None: no TLS")
    tls_key: Annotated[str | None, RUNTIME] = Field(None, description="PEM file with the key of tls_certificate")
    audit_log: Annotated[str | None, RUNTIME] = Field(
        None, description="file to which every answered request adds one line of JSON"
    )
    audit_prompts: Annotated[bool, RUNTIME] = Field(False, description="write prompts into audit_log as well")
    chat_page: Annotated[bool, RUNTIME] = Field(False, description="a page at / to talk to the models; asks for a key")

    @model_validator(mode="after")
    def _tls_has_both_files(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_certificate and tls_key")
        return self
