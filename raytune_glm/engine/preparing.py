"""What a model needs between its method and its training. Read next: `deepspeed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raytune_glm.engine.neftune import add_noise

if TYPE_CHECKING:
    from raytune_glm.config.tree import TrainSettings


def prepare(model: Any, train: TrainSettings) -> None:
    """Set a model up for training, its method on it already: checkpointing of layers, noise."""
    if train.gradient_checkpointing:
        # Without reentrance, frozen inputs may stay without a gradient of their own.
        model.activation_checkpointing_enable({"use_reentrant": False})
    if train.neftune_noise_alpha is not None:
        add_noise(model, train.neftune_noise_alpha)
