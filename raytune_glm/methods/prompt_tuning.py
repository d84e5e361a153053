"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): learnt embeddings before each row.

Not what the tables of ChatGLM-Finetuning call "PT-Only-Embedding", which is `p_tuning_v2` without
projection. PEFT's prompt tuning counts positions over the pads of a batch that is padded on the
left, so that an answer depends on the rows beside it; hence a forward of our own, and PEFT's
format on disk. Read next: `raytune_glm.models.virtual_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from raytune_glm.errors import ConfigError
from raytune_glm.methods import peft_format
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.family import Family, ModelShape


class PromptTuning(Method):
    """Train the embeddings of virtual tokens that stand before each row."""

    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    peft_fields: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"num_virtual_tokens": "num_virtual_tokens"}
    )
    leads_rows: ClassVar[bool] = True

    name: Literal["prompt_tuning"] = "prompt_tuning"
    num_virtual_tokens: Annotated[int, Field(ge=1)] = 16
    """Length of the prompt. The paper finds little gain above 20."""

    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse a model that cannot work from embeddings.

        Raises:
            ConfigError: The family, and what to use instead.
        """
        if family.needs_token_ids:
            raise ConfigError(
                f"method.name must not be prompt_tuning for a {family.name} model, which finds the "
                "context by the ids of its tokens, and virtual tokens have none: use p_tuning_v2"
            )

    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """An embedding a virtual token."""
        return {"prompt_encoder.weight": self.num_virtual_tokens * shape.hidden_size}

    def added_tokens(self, family: Family) -> int:
        """The prompt's."""
        return self.num_virtual_tokens

    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Freeze the model and put the prompt before its rows."""
        from raytune_glm.models.virtual_tokens import add_prompt

        model.requires_grad_(requires_grad=False)
        add_prompt(model, self.num_virtual_tokens)
        return model

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the prompt as PEFT does."""
        from peft import PromptTuningConfig

        [prompt] = weights.values()
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            token_dim=prompt.shape[1],
            **peft_format.sizes_of(model),
        )
        peft_format.write_prompt(config, prompt, folder)

    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put a saved prompt before the rows of `model`."""
        from raytune_glm.models.virtual_tokens import add_prompt

        saved = peft_format.read_prompt(folder)
        prompt = add_prompt(model, self.num_virtual_tokens)
        peft_format.fill(prompt, saved, folder)
        return model

    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """See `Method.misfit`: a virtual token is as wide as a word."""
        return peft_format.width_misfit(folder, shape.hidden_size)

    def changes(self, folder: Path) -> Changes:
        """See `Method.changes`: a prompt is none."""
        raise ConfigError(
            f"what is merged must change weights of the base, but {folder} holds a learnt prompt "
            "(prompt_tuning): embeddings that stand before each row and belong to no word. Keep "
            "base and prompt apart; predict and chat take the folder"
        )
