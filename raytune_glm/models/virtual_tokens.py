"""Virtual tokens before each row, for any causal language model of transformers.

A learnt prompt stands where embeddings go in; a learnt prefix stands in the cache of every layer.
Either way masks get longer and positions move up, and users of the model see neither: they go on
passing their own ids, masks, positions and labels, and `generate` goes on working. Positions are
those that PEFT gives, so that what is learnt here loads there. ChatGLM has a prefix of its own.
Read next: `chatglm.prefix`.

Shape suffixes: B batch, P virtual tokens, T tokens of this call, S tokens with the cached ones.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from raytune_glm.errors import ModelError
from raytune_glm.models.caching import CACHE, renamed
from raytune_glm.models.chatglm.prefix import PrefixEncoder, seeded

Start = Callable[[Callable[..., Any], dict[str, Any]], Any]
"""Runs the first forward of a row: takes the model's own forward, and its arguments by name."""


def add_prompt(model: PreTrainedModel, length: int) -> nn.Embedding:
    """Put a new, untrained prompt before the embeddings of every row, and give it.

    It starts as the embeddings of tokens drawn from the vocabulary, which Lester et al. 2021
    (arXiv 2104.08691, section 3.2) find better than noise.

    Args:
        model: The model; it is changed.
        length: Number of virtual tokens.
    """
    from peft.utils.integrations import gather_params_ctx

    words: Any = model.get_input_embeddings()
    drawn_P = torch.randint(0, words.num_embeddings, (length,)).to(words.weight.device)
    with gather_params_ctx(words.weight, modifier_rank=None):  # ZeRO-3 may have spread it
        learnt = words(drawn_P).detach().clone()
    prompt = nn.Embedding(length, words.embedding_dim, _weight=learnt)
    model.add_module("prompt_encoder", prompt)

    def start(plain: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        ids_BT = arguments.pop("input_ids", None)
        embedded = arguments.get("inputs_embeds")
        text = words(ids_BT) if embedded is None else embedded
        learnt = prompt(torch.arange(length, device=text.device)).to(text.dtype)
        arguments["inputs_embeds"] = torch.cat((learnt.expand(len(text), -1, -1), text), dim=1)
        positions_BT = arguments.get("position_ids")
        if positions_BT is not None:
            own_P = torch.arange(length, device=text.device).expand(len(positions_BT), -1)
            arguments["position_ids"] = torch.cat((own_P, positions_BT), dim=1)
        labels_BT = arguments.get("labels")
        if labels_BT is not None:
            arguments["labels"] = nn.functional.pad(labels_BT, (length, 0), value=-100)
        output = plain(**arguments)
        if output.logits is not None and output.logits.shape[1] == length + text.shape[1]:
            output.logits = output.logits[:, length:]
        return output

    _lead_rows(model, length, start)
    return prompt


def add_prefix(model: PreTrainedModel, encoder: PrefixEncoder, layers_path: str | None) -> None:
    """Put a prefix before every layer's keys and values.

    Args:
        model: The model; it is changed.
        encoder: What gives the prefix, for all layers.
        layers_path: Module path of the layers, where they are to be trained through under gradient
            checkpointing; None where the model is only to be evaluated.

    Raises:
        ModelError: Some layer does not attend to all tokens, so that a prefix would be lost there.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelError(
            "a prefix needs full attention in every layer, but the layers of this "
            f"{config.model_type} model are {', '.join(sorted(kinds))}: use prompt_tuning or lora."
        )
    model.add_module("prefix_encoder", encoder)
    running: list[Cache] = []
    for layer in model.get_submodule(layers_path).children() if layers_path else ():
        _let_keep_prefix(layer, running)

    def start(plain: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        rows = arguments.get("input_ids")
        prefix = encoder(len(arguments["inputs_embeds"] if rows is None else rows), model.dtype)
        cache, caching = arguments.get(CACHE), arguments.get("use_cache")
        caching = config.use_cache if caching is None else caching
        if cache is not None or (caching and not model.training):
            cache = DynamicCache(config=model.config) if cache is None else cache
            return plain(**{**arguments, CACHE: seeded(cache, prefix)})
        held = Cache(layers=[_Held(keys, values) for keys, values in prefix])
        running.append(held)
        try:
            output = plain(**{**arguments, CACHE: held, "use_cache": False})
        finally:
            running.pop()
        return type(output)(**{k: v for k, v in output.items() if k != CACHE})

    _lead_rows(model, encoder.embedding.num_embeddings, start)


def _let_keep_prefix(layer: nn.Module, running: list[Cache]) -> None:
    """Have a layer see the prefix of the forward that runs, also under gradient checkpointing.

    There transformers takes caches away, from the layer or before it, since most would grow twice.
    """
    layer._can_checkpoint_with_cache = True  # type: ignore[assignment] # no module, a flag
    names = tuple(inspect.signature(layer.forward).parameters)

    def give_back(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if running and given.get(CACHE) is None:
            given[CACHE] = running[-1]
        return (given.pop(names[0]),), given

    layer.register_forward_pre_hook(give_back, with_kwargs=True)


class _Held(DynamicLayer):
    """A layer's prefix, which never grows: a layer may be run twice, as checkpointing does."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # theirs
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Give the prefix with this call's keys and values behind it, and keep neither."""
        assert self.keys is not None
        assert self.values is not None
        return (
            torch.cat((self.keys, key_states), dim=-2),
            torch.cat((self.values, value_states), dim=-2),
        )


def _lead_rows(model: PreTrainedModel, length: int, start: Start) -> None:
    """Have `start` run every forward that begins rows, with room made for virtual tokens in all."""
    plain = model.forward
    names = tuple(inspect.signature(plain).parameters)

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = renamed({**dict(zip(names, args, strict=False)), **kwargs})
        arguments |= _with_room(arguments, length, takes_positions="position_ids" in names)
        cache = arguments.get(CACHE)
        if cache is None or cache.get_seq_length() == 0:
            return start(plain, arguments)
        return plain(**arguments)

    model.forward = forward  # on the model itself, where `generate` calls it


def _with_room(
    arguments: dict[str, Any], length: int, *, takes_positions: bool
) -> dict[str, Tensor]:
    """Lengthen the mask, and count positions behind the virtual tokens, pads left out."""
    mask_BS, positions_BT = arguments.get("attention_mask"), arguments.get("position_ids")
    changed = {}
    if mask_BS is not None:
        if mask_BS.dim() != 2:
            raise ModelError(
                "virtual tokens need an `attention_mask` [batch, tokens], but got one of "
                f"{mask_BS.dim()} dimensions: pass the plain mask."
            )
        changed["attention_mask"] = nn.functional.pad(mask_BS, (length, 0), value=1)
        if positions_BT is None and takes_positions:
            given = arguments.get("input_ids")
            num_tokens = (arguments["inputs_embeds"] if given is None else given).shape[1]
            positions_BT = (mask_BS.long().cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
    if positions_BT is not None:
        changed["position_ids"] = positions_BT + length
    return changed


def prefix_of(model: PreTrainedModel, length: int, *, projection: bool) -> PrefixEncoder:
    """Make a prefix of a model's sizes; its network, if it has one, is of the hidden size."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return PrefixEncoder(
        length,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        head_dim=head_dim,
        hidden_size=config.hidden_size,
        embedding_size=config.hidden_size,
        projection=projection,
    ).to(device=model.device, dtype=model.dtype)
