"""P-Tuning v2 (Liu et al. 2021, arXiv 2110.07602): learnt keys and values before every layer.

With `projection: false` it is what the tables of ChatGLM-Finetuning call "PT-Only-Embedding", with
`true` their "PT". On ChatGLM it is the published prefix under its published names. Elsewhere it is
PEFT's prefix tuning on disk, and in the forward an own one, because PEFT's refuses gradient
checkpointing. Read next: `raytune_glm.models.virtual_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from raytune_glm.errors import ConfigError
from raytune_glm.methods import peft_format
from raytune_glm.methods import weights as saved_weights
from raytune_glm.methods.base import Method
from raytune_glm.methods.changes import Changes
from raytune_glm.models import folder as folders

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from raytune_glm.models.chatglm.prefix import PrefixEncoder
    from raytune_glm.models.family import Family, ModelShape

_MODULE = "prefix_encoder"


class PTuningV2(Method):
    """Train keys and values of virtual tokens that every layer sees before each row."""

    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    peft_fields: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"num_virtual_tokens": "num_virtual_tokens"}
    )
    leads_rows: ClassVar[bool] = True

    name: Literal["p_tuning_v2"] = "p_tuning_v2"
    num_virtual_tokens: Annotated[int, Field(ge=1)] = 16
    """Length of the prefix, the published `pre_seq_len`."""
    projection: bool = False
    """Learn it through a two-layer network, the published `prefix_projection`: many more parameters
    while training, which ChatGLM-Finetuning finds far better. Elsewhere than on ChatGLM only the
    network's result is saved."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the prefix's values dropped in training. 0.1 in the published code."""

    def check(self, shape: ModelShape, family: Family) -> None:
        """Refuse nothing: every length has an effect."""

    def trained(self, shape: ModelShape, family: Family) -> dict[str, int]:
        """A key and a value a virtual token, layer and head; or the table and the network."""
        num_values = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
        module = f"transformer.{_MODULE}" if family.has_own_prefix else _MODULE
        if not self.projection:
            return {f"{module}.embedding.weight": self.num_virtual_tokens * num_values}
        width, hidden = family.prefix_embedding_size(shape), shape.hidden_size
        return {
            f"{module}.embedding.weight": self.num_virtual_tokens * width,
            f"{module}.trans.0.weight": width * hidden,
            f"{module}.trans.0.bias": hidden,
            f"{module}.trans.2.weight": hidden * num_values,
            f"{module}.trans.2.bias": num_values,
        }

    def added_tokens(self, family: Family) -> int:
        """The prefix's, where the text's positions start behind it; not on ChatGLM."""
        return 0 if family.has_own_prefix else self.num_virtual_tokens

    def apply(self, model: PreTrainedModel, family: Family) -> PreTrainedModel:
        """Freeze the model and put the prefix before every layer."""
        model.requires_grad_(requires_grad=False)
        self._put_on(model, family.layers_path, projection=self.projection)
        return model

    def save(self, model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path) -> None:
        """Write the prefix: on ChatGLM under its published names, elsewhere in PEFT's format."""
        if _has_own_prefix(model):
            saved_weights.write_weights(self, weights, folder)
            return
        from peft import PrefixTuningConfig

        encoder: Any = model.get_submodule(_MODULE)
        _, heads, head_dim = encoder.sizes
        sizes = {**peft_format.sizes_of(model), "num_attention_heads": heads}
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            token_dim=heads * head_dim,
            encoder_hidden_size=heads * head_dim,
            **sizes,
        )
        peft_format.write_prompt(config, self._values(model, weights), folder)

    def load(self, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
        """Put a saved prefix before every layer of `model`."""
        if not _has_own_prefix(model):
            saved = peft_format.read_prompt(folder)
            prefix = self._put_on(model, None, projection=False)
            peft_format.fill(prefix.embedding, saved, folder)
            prefix.eval()
            return model
        self._put_on(model, None, projection=self.projection).eval()
        names = {name for name, _ in model.named_parameters() if f".{_MODULE}." in name}
        saved_weights.read_weights(model, folder, names=names)
        return model

    def misfit(self, folder: Path, shape: ModelShape, family: Family) -> str | None:
        """See `Method.misfit`: the prefix has a key and a value a layer and head."""
        values = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
        if (folder / peft_format.WEIGHTS).is_file():
            if family.has_own_prefix:
                return f"a {family.name} model takes its published prefix, and this is PEFT's"
            return peft_format.width_misfit(folder, values)
        if not family.has_own_prefix:
            return f"it is the prefix of a ChatGLM model, and the model is {family.name}"
        if (folder / saved_weights.WEIGHTS).is_file():
            wanted = family.prefix_embedding_size(shape) if self.projection else values
            for name, header in folders.read_header(folder / saved_weights.WEIGHTS).items():
                if name.endswith("embedding.weight") and header.shape[1] != wanted:
                    return (
                        f"its virtual tokens have {header.shape[1]} values, and the model's "
                        f"{wanted}"
                    )
        return None

    def changes(self, folder: Path) -> Changes:
        """See `Method.changes`: a prefix is none."""
        raise ConfigError(
            f"what is merged must change weights of the base, but {folder} holds a prefix "
            "(p_tuning_v2): keys and values that every layer sees before the text, for which the "
            "base has no weight. Keep base and prefix apart; predict and chat take the folder"
        )

    def _put_on(
        self, model: PreTrainedModel, layers_path: str | None, *, projection: bool
    ) -> PrefixEncoder:
        prefix: PrefixEncoder
        if _has_own_prefix(model):
            prefix = model.add_prefix(self.num_virtual_tokens, projection=projection)  # type: ignore[operator]
        else:
            from raytune_glm.models.virtual_tokens import add_prefix, prefix_of

            prefix = prefix_of(model, self.num_virtual_tokens, projection=projection)
            add_prefix(model, prefix, layers_path)
        prefix.dropout.p = self.dropout
        return prefix

    def _values(self, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Tensor:
        """The prefix as a table, gone through the network: [virtual tokens, values of a token]."""
        import torch

        from raytune_glm.models.virtual_tokens import prefix_of

        # A fresh one: that on the model may be spread over ranks.
        encoder = prefix_of(model, self.num_virtual_tokens, projection=self.projection).cpu()
        encoder.load_state_dict(
            {name.removeprefix(f"{_MODULE}."): tensor for name, tensor in weights.items()}
        )
        with torch.no_grad():
            table = encoder.embedding.weight
            return (table if encoder.trans is None else encoder.trans(table)).detach().clone()


def _has_own_prefix(model: PreTrainedModel) -> bool:
    return hasattr(model, "add_prefix")
