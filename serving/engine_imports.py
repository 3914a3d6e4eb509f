"""Imported by the process from which engines are forked: what an engine needs, so that it starts with it."""

import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.executor.uniproc_executor
import vllm.v1.worker.cpu_worker  # noqa: F401

from serving import embedding_tables

embedding_tables.pack_when_used()
