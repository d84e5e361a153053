"""What the rest of the project may ask of a model family, and the plain data it is asked with.

A family is one file in this package: its facts (module names, prompt layout, sizes) and nothing
about training. This file and every family file import neither torch nor transformers at module
level, so that a sweep file is checked in well under a second. Read next: `chatglm3`, then
`loading`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from raytune_glm.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from raytune_glm.models.llama_original import OriginalLlama

Role = Literal["system", "user", "assistant", "tool"]

IGNORED_LABEL = -100
"""Label of a token that carries no loss (PyTorch's `cross_entropy` default `ignore_index`)."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation; an instruction row is a user turn and an assistant turn."""

    role: Role
    parts: tuple[str, ...]
    """Text, in the pieces that the data has it in: an instruction and its input. Alpaca's template
    shows them under headings of their own; ChatGLM's formats join them."""

    @property
    def content(self) -> str:
        """The whole text of the turn."""
        return "".join(self.parts)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A training row as token ids; `labels` is `IGNORED_LABEL` where no loss is taken."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    """Whether a token of the source or the answer was cut off to keep within the limits."""


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """One linear layer of a model: its full module name and its size."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model that parameter arithmetic needs, read off its configuration alone."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    num_key_value_heads: int
    head_dim: int
    max_length: int
    """Longest sequence in tokens that the model's position table allows."""
    linears: tuple[LinearShape, ...]
    """Every linear layer in the transformer's layers, in order; no embedding, no output head."""
    parameters: Mapping[str, int]
    """Name of every parameter -> its elements. Of tied ones only the first has an entry."""

    @property
    def total_parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(self.parameters.values())


class Family(ABC):
    """The facts of one model family. Implementations are stateless."""

    name: str
    """Key in `raytune_glm.models.FAMILIES` and value of `model.family` in a sweep file."""
    layers_path: str
    """Module path of the list of transformer layers, e.g. `transformer.encoder.layers`."""
    attention_modules: tuple[str, ...]
    """Last names of the linears in attention, what `target_modules: attention` means."""
    mlp_modules: tuple[str, ...]
    """Last names of the linears in the feed-forward part, what `target_modules: mlp` means."""
    default_lora_modules: tuple[str, ...]
    """LoRA's targets where the user names none: those that the published tools use."""
    template: str | None = None
    """Instruction template of its prompts, in families that have a choice of them."""
    tokenizer_files: tuple[str, ...]
    """Files of a checkpoint folder of which at least one must be there to build a tokenizer."""
    has_own_prefix: bool = False
    """Whether its model has `add_prefix`: the published P-Tuning, before the text's position 0."""
    supports_flash_attention: bool = True
    """Whether its attention is causal with at most pads masked, which is all that FlashAttention's
    kernels can do."""
    needs_token_ids: bool = False
    """Whether the model reads its layout off the ids, so that embeddings alone are not enough."""
    joining_model_types: tuple[str, ...] = ()
    """Which of its `model_type`s keep rows apart that stand one behind the other in one row, given
    no mask but positions that start anew at each: those that `train.packing` was held to."""
    published: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """What `config.json` of published checkpoints says of sizes and arithmetic, by name: for random
    weights of true shape, and for counting parameters without a download."""

    @abstractmethod
    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """Say whether this family's code can run the model that a `config.json` describes."""

    def matches(self, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> bool:
        """Say whether a checkpoint is of this family and of no other that shares its layout.

        Args:
            config: The checkpoint's `config.json`.
            tokenizer_config: Its `tokenizer_config.json`; empty where there is none.
        """
        return self.has_layout(config)

    @abstractmethod
    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """Work out the sizes of the model without building it.

        Args:
            config: The checkpoint's `config.json`.
            folder: The checkpoint, for a family that reads sizes off the weights' headers.

        Raises:
            ModelError: A size is missing or impossible.
        """

    def layer_parameters(self, shape: ModelShape) -> tuple[int, ...]:
        """Give the parameters of each transformer layer, from the first to the last."""
        return tuple(
            sum(
                size
                for name, size in shape.parameters.items()
                if name.startswith(f"{self.layers_path}.{layer}.")
            )
            for layer in range(shape.num_layers)
        )

    def prefix_embedding_size(self, shape: ModelShape) -> int:
        """Give the width of P-Tuning's table where it goes through a network (`projection`)."""
        return shape.hidden_size

    def fitted(self, shape: ModelShape) -> Family:
        """Give the family with its module names narrowed to a model; known families need none."""
        return self

    def with_template(self, name: str) -> Family:
        """Give the family with another instruction template for its prompts.

        Raises:
            ConfigError: The family's prompts have one form only, or there is no such template.
        """
        raise ConfigError(
            f"`model.template` must be left out for {self.name}, whose chat format is fixed, but "
            f"got template={name!r}."
        )

    def model_class(self) -> Any:
        """Give the class whose `from_pretrained` builds the model; imports transformers."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def build_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """Build the tokenizer of a checkpoint folder; imports transformers."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        return tokenizer

    def original_layout(self, config: Mapping[str, Any]) -> OriginalLlama:
        """Say how a checkpoint is written in the layout that its makers' own code reads.

        Raises:
            ConfigError: The family has no layout but that of transformers.
            ModelError: The makers' code could not run this checkpoint.
        """
        raise ConfigError(
            f"--format must be hf for {self.name}, whose published layout it is: only LLaMA has an "
            "original one besides, but got --format state_dict."
        )

    @abstractmethod
    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """Turn a conversation that ends with an assistant turn into a training row.

        Loss is taken on what the assistant says, as the family's published training code does it;
        too long a source is cut to `max_source_length` tokens by the family's own rule, too long an
        answer so that the row has at most `max_length` tokens.

        Args:
            tokenizer: The family's tokenizer, from `load_tokenizer`.
            messages: The turns; the last one is the assistant's.
            max_length: Longest row in tokens.
            max_source_length: Longest source in tokens, template included.

        Returns:
            Token ids and labels of equal length.
        """

    @abstractmethod
    def encode_prompt(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        *,
        max_source_length: int,
    ) -> list[int]:
        """Turn a conversation that ends with a user (or tool) turn into the ids to generate from.

        It is the exact prefix of the row that `encode` makes of the same turns plus an answer.
        """

    @abstractmethod
    def stop_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Ids at which generation ends."""

    def answer(self, tokenizer: PreTrainedTokenizerBase, generated_ids: Sequence[int]) -> str:
        """Turn generated ids, the prompt's left out, into the text of the answer.

        What follows the first stop token is dropped, and so are blanks at both ends.
        """
        stops = set(self.stop_token_ids(tokenizer))
        ids = list(generated_ids)
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        return str(tokenizer.decode(ids[:end], skip_special_tokens=True)).strip()


def in_layers(path: str, num_layers: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Give each layer the parameters of one, `sizes`, under their full names."""
    return {
        f"{path}.{layer}.{name}": size
        for layer in range(num_layers)
        for name, size in sizes.items()
    }


def linears_in_layers(
    path: str, num_layers: int, sizes: Mapping[str, tuple[int, int]]
) -> tuple[LinearShape, ...]:
    """Give each layer the linears of one: name -> features in and out."""
    return tuple(
        LinearShape(name=f"{path}.{layer}.{name}", in_features=width, out_features=out)
        for layer in range(num_layers)
        for name, (width, out) in sizes.items()
    )


def size_in(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Read a size from a `config.json`.

    Args:
        config: What the file says.
        key: Name of the size.
        default: What it is where the file does not say; without one, the file must.

    Raises:
        ModelError: It is missing, or not a positive integer.
    """
    value = config.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(
            f"`{key}` must be a positive integer, but got {key}={value!r}: config.json is damaged."
        )
    return value
