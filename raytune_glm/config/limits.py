"""`search.limits` against what arithmetic knows of trials before any has run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raytune_glm.config.tree import RunConfig
from raytune_glm.errors import ConfigError
from raytune_glm.models import Checkpoint
from raytune_glm.search import SearchSettings
from raytune_glm.search.pairs import variants

LEAST_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": 0.5}
"""Bytes that a weight of the base takes, by precision or quantization; some parts take more."""


def check_limits(search: SearchSettings, runs: Sequence[RunConfig], model: Checkpoint) -> None:
    """Refuse a limit that no trial can meet, or none that has one variant of a `one_of`.

    Args:
        search: Has the limits and the variants.
        runs: A run of each corner of the space.
        model: The base.

    Raises:
        ConfigError: There is one; the message has the least that such a trial can have.
    """
    faults = [*_beyond_all(search, runs, model)] or [*_beyond_a_variant(search, runs, model)]
    if faults:
        raise ConfigError("\n".join(faults))


def remark_limits(search: SearchSettings, trainable: tuple[int, int]) -> Iterator[str]:
    """Tell where a part of the space is beyond a limit: its trials are begun all the same.

    Args:
        search: Has the limits.
        trainable: Fewest and most parameters that a trial of the space trains.
    """
    limit, (least, most) = search.limits.get("trainable_parameters"), trainable
    if limit is not None and limit < most:
        yield (
            f"search.limits.trainable_parameters={limit:,.0f} is kept by a part of the space "
            f"alone, which has {least:,} to {most:,}: the others train to their first "
            "evaluation and cannot win, so narrow search.space to what keeps it"
        )


def _beyond_all(
    search: SearchSettings, runs: Sequence[RunConfig], model: Checkpoint
) -> Iterator[str]:
    for name, limit, least in _broken(search, runs, model):
        yield (
            f"search.limits.{name} must be at least {least:,.0f}, the least that any trial of "
            f"this space can have, or none can win, but got {limit:,.0f}: raise it"
        )


def _beyond_a_variant(
    search: SearchSettings, runs: Sequence[RunConfig], model: Checkpoint
) -> Iterator[str]:
    for section, names in variants(search.space).items():
        for variant in names:
            having = [run for run in runs if getattr(run, section).name == variant]
            for name, limit, least in _broken(search, having, model):
                yield (
                    f"search.limits.{name} must be at least {least:,.0f}, the least that a trial "
                    f"of {section} {variant} can have, or none of those can win, but got "
                    f"{limit:,.0f}: leave {variant} out by "
                    f"search.space.{section}.one_of.{variant}=null, or raise the limit"
                )


def _broken(
    search: SearchSettings, runs: Sequence[RunConfig], model: Checkpoint
) -> Iterator[tuple[str, float, float]]:
    """The limits that none of some runs can meet: name, limit, and the least that one can have."""
    least = {
        "trainable_parameters": min(
            run.method.trainable_parameters(model.shape, model.family) for run in runs
        ),
        "peak_memory_bytes": min(_weight_bytes(run, model) for run in runs),
    }
    for name, limit in search.limits.items():
        if name in least and limit < least[name]:
            yield name, limit, least[name]


def _weight_bytes(run: RunConfig, model: Checkpoint) -> float:
    """Fewest bytes of a device that the base's weights take."""
    if run.deepspeed.offload_parameters != "none":
        return 0.0
    # What is stored in few bits takes half a byte a weight at the least.
    stored = "nf4" if model.stored_quantization is not None else run.model.precision
    kind = run.model.quantization or stored
    return model.shape.total_parameters * LEAST_BYTES[kind] / run.run.num_workers
