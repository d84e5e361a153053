"""Rules that tie settings of several sections together, for one trial. Read next: `check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raytune_glm.config.deepspeed_config import contradictions
from raytune_glm.metrics import METRICS

if TYPE_CHECKING:
    from raytune_glm.config.tree import RunConfig


def disagreements(run: RunConfig) -> Iterator[str]:
    """Tell every rule between sections that a run breaks, with the values by name and a remedy."""
    for name in run.train.metrics:
        yield from unknown_metric("train.metrics", name)
    yield from _batch(run)
    yield from _gpus(run)
    yield from _zero_3(run)
    yield from _deepspeed_config(run)
    if run.method.trains_base and run.model.quantization is not None:
        yield (
            f"model.quantization must be left out where the base itself trains, but got "
            f"quantization={run.model.quantization} with method.name={run.method.name}: leave it "
            "out, or use lora"
        )


def unknown_metric(where: str, name: str) -> Iterator[str]:
    """Tell that a name is no metric's, if it is none."""
    if name not in METRICS:
        yield f"{where} must be one of {', '.join(METRICS)}, but got {name!r}"


def _batch(run: RunConfig) -> Iterator[str]:
    train, num_workers = run.train, run.run.num_workers
    step = train.micro_batch_size * num_workers
    if train.batch_size % step:
        yield (
            "train.batch_size must be a multiple of train.micro_batch_size x run.num_workers, but "
            f"got batch_size={train.batch_size} with {train.micro_batch_size} x {num_workers} = "
            f"{step}: lower train.micro_batch_size, or change train.batch_size or run.num_workers"
        )


def _gpus(run: RunConfig) -> Iterator[str]:
    share, num_workers = run.run.gpus_per_worker, run.run.num_workers
    if share is not None and 0 < share < 1 and num_workers > 1:
        yield (
            "run.gpus_per_worker must be 0 or 1 where a trial has several workers, but got "
            f"gpus_per_worker={share:g} with run.num_workers={num_workers}: NCCL wants a GPU of "
            "its own for each"
        )


def _zero_3(run: RunConfig) -> Iterator[str]:
    if run.deepspeed.zero_stage < 3:
        return
    if run.model.quantization is not None:
        yield (
            "deepspeed.zero_stage must be at most 2 with a quantized base, but got zero_stage=3 "
            f"with model.quantization={run.model.quantization}: ZeRO-3 cannot spread packed weights"
        )
    if run.data.retain is not None:
        yield (
            "deepspeed.zero_stage must be at most 2 with data.retain, but got zero_stage=3: each "
            "worker measures the untrained base, whole, to tell what is forgotten"
        )


def _deepspeed_config(run: RunConfig) -> Iterator[str]:
    if any(_batch(run)):  # what follows from such sizes contradicts nothing
        return
    for found in contradictions(run):
        yield (
            f"deepspeed.config must agree with the run, but {found}: change one of the two, or "
            'write "auto" there'
        )
