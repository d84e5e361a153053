"""Any other causal language model that transformers has, its sizes read off the checkpoint itself.

Read next: `text_family`.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from raytune_glm.errors import ModelError
from raytune_glm.models import folder as folders
from raytune_glm.models.family import Family, LinearShape, ModelShape
from raytune_glm.models.text_family import TextFamily

log = logging.getLogger(__name__)

_LAYER_WEIGHT = re.compile(r"(?P<module>(?P<path>.+?)\.(?P<layer>\d+)\.(?P<rest>.+))\.weight")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "c_attn")
_MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc")
_MAX_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")
_DEFAULT_MAX_LENGTH = 2048
"""Where config.json names no limit, as for models whose positions have none."""


class Generic(TextFamily):
    """A causal language model of which only transformers knows the layout.

    Args:
        layers_path: Module path of its layers, where its weights have been looked at.
        attention_modules: Those of the usual names of attention linears that it has.
        mlp_modules: Those of the usual names of feed-forward linears that it has.
        template: Name of the Alpaca template of its prompts; see `TextRows`.
    """

    name = "generic"
    # Held to their rows alone in tests/data/test_joining.py.
    joining_model_types = (
        *("cohere", "gemma", "gemma2", "gpt2", "gpt_neox", "granite", "internlm3"),
        *("mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2"),
    )
    tokenizer_files = (
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
    )

    def __init__(
        self,
        *,
        layers_path: str = "model.layers",
        attention_modules: tuple[str, ...] = _ATTENTION[:4],
        mlp_modules: tuple[str, ...] = _MLP[:3],
        template: str | None = None,
    ) -> None:
        super().__init__(template=template)
        self.layers_path = layers_path
        self.attention_modules = attention_modules
        self.mlp_modules = mlp_modules
        self.default_lora_modules = attention_modules or mlp_modules

    def has_layout(self, config: Mapping[str, Any]) -> bool:
        """See `Family.has_layout`: transformers has a causal model of this `model_type`."""
        return config.get("model_type") in _causal_model_types()

    def shape(self, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """See `Family.shape`. Sizes come from the weights' headers, or else a build on meta."""
        log.info(
            "%s has no family of its own here: names and sizes are read off its weights",
            config.get("model_type"),
        )
        tensors = _header_shapes(folder) or _meta_shapes(config)
        text = config.get("text_config") or config
        hidden = _first(text, ("hidden_size", "n_embd", "d_model"))
        heads = _first(text, ("num_attention_heads", "n_head", "num_heads"))
        linears = _linears(tensors)
        embedding = max(
            (size for size in tensors.values() if len(size) == 2 and size[1] == hidden),
            default=(_first(text, ("vocab_size",)), hidden),
        )
        return ModelShape(
            num_layers=len({_layer_of(linear.name) for linear in linears}),
            hidden_size=hidden,
            vocab_size=text.get("vocab_size") or embedding[0],
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or hidden // heads,
            max_length=next(
                (text[key] for key in _MAX_LENGTH_KEYS if text.get(key)), _DEFAULT_MAX_LENGTH
            ),
            linears=linears,
            parameters={name: _count(size) for name, size in tensors.items()},
        )

    def fitted(self, shape: ModelShape) -> Family:
        """See `Family.fitted`."""
        names = {linear.name.rpartition(".")[2] for linear in shape.linears}
        found = _LAYER_WEIGHT.fullmatch(f"{shape.linears[0].name}.weight")
        attention = tuple(name for name in _ATTENTION if name in names)
        mlp = tuple(name for name in _MLP if name in names)
        return Generic(
            layers_path=found["path"] if found else self.layers_path,
            attention_modules=attention,
            # Where no usual name fits, every linear is better than none.
            mlp_modules=mlp if attention or mlp else tuple(sorted(names)),
            template=self.template,
        )


@cache
def _causal_model_types() -> frozenset[str]:
    """List the model types that transformers can load as a causal model, without importing it.

    Importing transformers takes seconds; its table of models is a source file that reads in one
    millisecond. Should a later release keep it elsewhere, the import is the fallback.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is not None and spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        table = root / "models" / "auto" / "modeling_auto.py"
        source = table.read_text(encoding="utf-8") if table.is_file() else ""
        _, _, behind = source.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
        found = re.findall(r'\(\s*"([\w.-]+)",\s*"\w+"', behind.partition("\n)\n")[0])
        if found:
            return frozenset(found)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _header_shapes(folder: Path | None) -> dict[str, tuple[int, ...]]:
    if folder is None:
        return {}
    files = [file for file in folders.weight_files(folder) if file.suffix == ".safetensors"]
    return {
        name: header.shape for file in files for name, header in folders.read_header(file).items()
    }


def _meta_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _linears(tensors: Mapping[str, tuple[int, ...]]) -> tuple[LinearShape, ...]:
    found = [
        LinearShape(name=match["module"], in_features=size[1], out_features=size[0])
        for name, size in tensors.items()
        if (match := _LAYER_WEIGHT.fullmatch(name)) and len(size) == 2
    ]
    if not found:
        raise ModelError(
            "a model must have linear layers in numbered transformer layers, but the weights name "
            f"none ({', '.join(list(tensors)[:3])}, ...): it cannot be tuned here."
        )
    return tuple(sorted(found, key=lambda linear: _layer_of(linear.name)))


def _layer_of(name: str) -> int:
    match = _LAYER_WEIGHT.fullmatch(f"{name}.weight")
    assert match is not None, f"{name} is in no numbered layer"
    return int(match["layer"])


def _count(size: tuple[int, ...]) -> int:
    count = 1
    for length in size:
        count *= length
    return count


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    for key in keys:
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelError(f"config.json must say {' or '.join(keys)}, but has none of them.")
