"""ChatGLM-6B on today's transformers, tensor names as published.

The arithmetic is that of `modeling_chatglm.py` of THUDM/chatglm-6b: post-norm residuals scaled by a
constant, query, key and value interleaved head by head, two rotary position streams, a context that
is seen whole, a tied output layer. Attention runs through transformers' attention interface with
one mask a forward. Read next: `positions`.

Shape suffixes: B batch, T tokens of this call, S tokens with the cached ones, H hidden, N heads, D
head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from raytune_glm.errors import ModelError
from raytune_glm.models.caching import CACHE
from raytune_glm.models.chatglm.attention import eager_attention, kept
from raytune_glm.models.chatglm.packed import PackedLinear, make_linear
from raytune_glm.models.chatglm.prefix import PrefixEncoder, seeded
from raytune_glm.models.chatglm_v1 import positions as places
from raytune_glm.models.chatglm_v1.configuration import ChatGLMV1Config
from raytune_glm.models.loss import labelled_loss

_RESIDUAL_SCALE = (2 * 28) ** 0.5
"""Factor of the residual: the published block takes 28 layers for granted in every model."""
_SPANS_ATTRIBUTE = "chatglm_v1_spans"
"""Where a cache keeps the parts of its rows, which later tokens need for their positions."""


class ChatGLMV1Attention(nn.Module):
    """Self-attention; its fused projection holds query, key and value of head 0, of head 1, ..."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: ChatGLMV1Config, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        hidden, num_bits = config.hidden_size, config.quantization_bit
        self.query_key_value = make_linear(hidden, 3 * hidden, bias=True, num_bits=num_bits)
        self.dense = make_linear(hidden, hidden, bias=True, num_bits=num_bits)

    def forward(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor,
        rotary: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        places_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; give the new hidden states and, from an eager attention, the probabilities."""
        fused = self.query_key_value(hidden_BTH)
        heads_BNTD3 = fused.view(*hidden_BTH.shape[:2], -1, 3 * self.head_dim).transpose(1, 2)
        query_BNTD, key_BNTD, value_BNSD = heads_BNTD3.chunk(3, dim=-1)
        streams = 2 if self.config.position_encoding_2d else 1
        query_BNTD = places.rotate_halves(query_BNTD, *rotary, num_streams=streams)
        key_BNSD = places.rotate_halves(key_BNTD, *rotary, num_streams=streams)
        if past_key_values is not None:
            key_BNSD, value_BNSD = past_key_values.update(key_BNSD, value_BNSD, self.layer_idx)
        elif prefix is not None:
            key_BNSD = torch.cat((prefix[0], key_BNSD), dim=2)
            value_BNSD = torch.cat((prefix[1], value_BNSD), dim=2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        context_BTND, probabilities = attend(
            self,
            query_BNTD,
            key_BNSD,
            value_BNSD,
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.dense(kept(context_BTND, places_to_keep).flatten(-2)), probabilities


class ChatGLMV1MLP(nn.Module):
    """Two linears with the tanh form of GELU between them."""

    def __init__(self, config: ChatGLMV1Config) -> None:
        super().__init__()
        hidden, inner, num_bits = (
            config.hidden_size,
            config.inner_hidden_size,
            config.quantization_bit,
        )
        self.dense_h_to_4h = make_linear(hidden, inner, bias=True, num_bits=num_bits)
        self.dense_4h_to_h = make_linear(inner, hidden, bias=True, num_bits=num_bits)

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """Transform each position on its own."""
        inner = nn.functional.gelu(self.dense_h_to_4h(hidden_BTH), approximate="tanh")
        return self.dense_4h_to_h(inner)  # type: ignore[no-any-return]


class ChatGLMV1Block(GradientCheckpointingLayer):
    """One layer; the residual is taken from the norm's output, scaled."""

    def __init__(self, config: ChatGLMV1Config, layer: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = nn.LayerNorm(size, eps=eps)
        self.attention = ChatGLMV1Attention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(size, eps=eps)
        self.mlp = ChatGLMV1MLP(config)

    def forward(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor,
        rotary: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        places_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Give the layer's output and, from an eager attention, its probabilities."""
        normed_BTH = self.input_layernorm(hidden_BTH)
        attended_BTH, probabilities = self.attention(
            normed_BTH,
            attention_mask,
            rotary,
            past_key_values=past_key_values,
            prefix=prefix,
            places_to_keep=places_to_keep,
            **kwargs,
        )
        normed_BTH = kept(normed_BTH, places_to_keep)
        normed_BTH = self.post_attention_layernorm(normed_BTH * _RESIDUAL_SCALE + attended_BTH)
        return normed_BTH * _RESIDUAL_SCALE + self.mlp(normed_BTH), probabilities


class ChatGLMV1PreTrainedModel(PreTrainedModel):
    """What transformers needs to know about both classes below."""

    config_class = ChatGLMV1Config
    config: ChatGLMV1Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLMV1Block"]  # noqa: RUF012 - transformers reads plain class lists
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012 - the same
    _supports_sdpa = True
    # Published checkpoints hold the rotary frequencies; ours are worked out at each forward.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]  # noqa: RUF012 - the same
    # The scales of packed weights are fp16 numbers, which bf16 would spoil.
    _keep_in_fp32_modules_strict = ["weight_scale"]  # noqa: RUF012 - the same

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, PackedLinear):  # nothing random fits packed weights
            super()._init_weights(module)  # type: ignore[no-untyped-call] # theirs


class ChatGLMV1Model(ChatGLMV1PreTrainedModel):
    """The transformer without output layer."""

    def __init__(self, config: ChatGLMV1Config) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ChatGLMV1Block(config, layer) for layer in range(config.num_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.prefix_encoder = _prefix_encoder(config) if config.pre_seq_len else None
        self.gradient_checkpointing = False
        self.checks_length = True
        """Whether a call's tokens are one row each, and not many rows in a line."""
        self.post_init()  # type: ignore[no-untyped-call] # theirs

    def get_input_embeddings(self) -> nn.Module:
        """Give the word embeddings."""
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.word_embeddings = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        places_to_keep: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the layers.

        Args:
            input_ids: Token ids, [B, T]: whole rows, or what follows the cached ones. Needed even
                beside `inputs_embeds`, because `<sop>` and `[gMASK]` say what is context, unless
                mask and positions are given.
            attention_mask: 1 for a token, 0 for a pad, [B, S]; or the published mask, True where a
                query does NOT see a key, bool [B, 1, T, S].
            position_ids: Both streams, [B, 2, T]; worked out from the ids if not given.
            past_key_values: Cache of earlier tokens, extended in place.
            inputs_embeds: Embeddings instead of the ids' own, [B, T, H].
            use_cache: Return a cache; by default as the configuration says, never in training.
            output_hidden_states: Return the embeddings, each layer's output, the last one normed.
            output_attentions: Return the attention probabilities (eager attention only).
            places_to_keep: Columns whose last hidden states are wanted, [K]; by default all. The
                last layer leaves out for the others what follows its attention.
            cache: What newer transformers call `past_key_values`.
            **kwargs: Passed to the attention function.

        Returns:
            The normed last hidden states [B, T or K, H], the cache, and what was asked for.

        Raises:
            DataError: A row has no `<sop>`, or neither `[gMASK]` nor `[MASK]`.
            ModelError: The sequence is longer than `max_sequence_length`.
        """
        hidden_BTH = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        past_key_values = self._cache(past_key_values if cache is None else cache, use_cache)
        num_cached = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        prefix = None
        prefix_length = self.config.pre_seq_len or 0 if self.prefix_encoder is not None else 0
        if self.prefix_encoder is not None and num_cached == 0:
            prefix = self.prefix_encoder(len(hidden_BTH), hidden_BTH.dtype)
            if past_key_values is not None:
                past_key_values = seeded(past_key_values, prefix)
        else:
            num_cached -= prefix_length
        self._check_length(num_cached + hidden_BTH.shape[1])
        spans = self._spans(input_ids, attention_mask, position_ids, past_key_values, num_cached)
        if position_ids is None:
            assert spans is not None
            position_ids = places.positions(spans, num_cached, hidden_BTH.shape[1], self.config)
        mask = self._mask(hidden_BTH, attention_mask, spans, num_cached, prefix_length)
        rotary = places.rotary_tables(self.config, position_ids)

        states: list[Tensor] = [hidden_BTH]
        probabilities: list[Any] = []
        last = self.config.num_layers - 1
        for number, layer in enumerate(self.layers):
            hidden_BTH, layer_probabilities = layer(
                hidden_BTH,
                mask,
                rotary,
                past_key_values=past_key_values,
                prefix=prefix[number] if prefix else None,
                places_to_keep=places_to_keep if number == last else None,
                **kwargs,
            )
            if output_hidden_states:
                states.append(hidden_BTH)
            if output_attentions:
                probabilities.append(layer_probabilities)
        last_BTH = self.final_layernorm(hidden_BTH)
        return BaseModelOutputWithPast(
            last_hidden_state=last_BTH,
            hidden_states=(*states[:-1], last_BTH) if output_hidden_states else None,
            attentions=tuple(probabilities) if output_attentions else None,
            **{CACHE: past_key_values if use_cache else None},
        )

    def _spans(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        past_key_values: Cache | None,
        num_cached: int,
    ) -> places.Spans | None:
        """Find the rows' parts, or take them from the cache; None where nothing needs them."""
        if num_cached:
            spans: places.Spans | None = getattr(past_key_values, _SPANS_ATTRIBUTE, None)
            if spans is None and position_ids is None:
                raise ModelError(
                    "tokens added to a cache need `position_ids` [batch, 2, tokens], or a cache "
                    "that this model filled, but got neither."
                )
            return spans
        is_mask_ready = attention_mask is not None and attention_mask.dim() == 4
        if is_mask_ready and position_ids is not None:
            return None
        if input_ids is None:
            raise ModelError(
                "ChatGLM-6B finds the context by the ids of <sop> and [gMASK], but got "
                "`inputs_embeds` alone: give `input_ids` too, or a 4-D mask and `position_ids`."
            )
        rows_mask = None if is_mask_ready else attention_mask
        spans = places.find_spans(input_ids, rows_mask, self.config)
        if past_key_values is not None:
            setattr(past_key_values, _SPANS_ATTRIBUTE, spans)
        return spans

    def _mask(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor | None,
        spans: places.Spans | None,
        num_cached: int,
        prefix_length: int,
    ) -> Tensor:
        """Make the one mask of a forward; a prefix is visible to every row."""
        batch_size, num_tokens = hidden_BTH.shape[:2]
        if attention_mask is not None and attention_mask.dim() == 4:
            allowed_B1TS = ~attention_mask.bool()
        else:
            columns_S = torch.arange(num_cached + num_tokens, device=hidden_BTH.device)
            if attention_mask is not None:
                keys_BS = attention_mask.bool()
            elif spans is not None:
                keys_BS = columns_S >= spans.num_pads_B[:, None]
            else:
                keys_BS = (columns_S >= 0).expand(batch_size, -1)
            allowed_B1TS = places.allowed_keys(spans, num_cached, num_tokens, keys_BS)
        allowed_B1TS = nn.functional.pad(allowed_B1TS, (prefix_length, 0), value=True)
        if self.config._attn_implementation != "eager":
            return allowed_B1TS
        lowest = torch.finfo(hidden_BTH.dtype).min
        return torch.zeros_like(allowed_B1TS, dtype=hidden_BTH.dtype).masked_fill(
            ~allowed_B1TS, lowest
        )

    def _cache(self, past_key_values: Cache | None, use_cache: bool) -> Cache | None:
        """Give the cache to fill: none where layers are run a second time in the backward pass."""
        if self.gradient_checkpointing and self.training:
            return None
        if use_cache and past_key_values is None:
            return DynamicCache(config=self.config)
        return past_key_values

    def _check_length(self, length: int) -> None:
        limit = self.config.max_sequence_length
        if self.checks_length and length > limit:
            raise ModelError(
                f"a sequence must have at most max_sequence_length={limit} tokens, but got "
                f"{length}: shorten the rows or `max_new_tokens`."
            )


class ChatGLMV1ForConditionalGeneration(ChatGLMV1PreTrainedModel, GenerationMixin):
    """ChatGLM-6B as a language model."""

    _tied_weights_keys = {  # noqa: RUF012 - transformers reads a plain class dict
        "lm_head.weight": "transformer.word_embeddings.weight"
    }

    def __init__(self, config: ChatGLMV1Config) -> None:
        super().__init__(config)
        self.transformer = ChatGLMV1Model(config)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call] # theirs

    def get_input_embeddings(self) -> nn.Module:
        """Give the word embeddings."""
        return self.transformer.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.transformer.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Give the output layer."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings

    def row_places(self, input_ids: Sequence[int]) -> tuple[NDArray[np.int64], int]:
        """Work out the positions of one row, and how many of its tokens are context.

        Returns:
            Both position streams, [2, tokens], or the one, [tokens]; and the count.

        Raises:
            DataError: The row has no `<sop>`, or neither `[gMASK]` nor `[MASK]`.
        """
        ids_1T = torch.tensor([input_ids])
        spans = places.find_spans(ids_1T, torch.ones_like(ids_1T), self.config)
        positions = places.positions(spans, 0, ids_1T.shape[1], self.config)[0].numpy()
        return positions, int(spans.answer_start_B)

    def add_prefix(self, length: int, *, projection: bool) -> PrefixEncoder:
        """Put a new, untrained prefix before every layer (P-Tuning v2) and give it.

        Args:
            length: Number of prefix tokens, the published `pre_seq_len`.
            projection: Learn it through a two-layer network, the published `prefix_projection`.
        """
        self.config.pre_seq_len, self.config.prefix_projection = length, projection
        prefix = _prefix_encoder(self.config).to(device=self.device, dtype=self.dtype)
        self.transformer.prefix_encoder = prefix
        return prefix

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model, and take the loss where labels are given.

        Args:
            input_ids: As `ChatGLMV1Model.forward`, and so are the next four.
            attention_mask: See there.
            position_ids: See there.
            past_key_values: See there.
            inputs_embeds: See there.
            labels: Ids to predict, not shifted, -100 where no loss is taken, [B, T].
            use_cache: See there.
            output_hidden_states: See there.
            output_attentions: See there.
            return_dict: False for a plain tuple.
            logits_to_keep: Number of last positions to compute logits for (0: all), or indices.
            skip_logits: Return no logits; by default so in training with labels.
            num_items_in_batch: Divide the summed loss by this and not by this batch's own count.
            cache: As `past_key_values`.
            **kwargs: Passed to the attention function.

        Returns:
            Loss (fp32), logits [B, T, V] in the model's precision, cache.
        """
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            **kwargs,
        )
        hidden_BTH = outputs.last_hidden_state
        loss = None
        if labels is not None:
            loss = labelled_loss(
                hidden_BTH, labels, self.lm_head, num_items_in_batch=num_items_in_batch
            )
        logits = None
        if not (self.training and labels is not None if skip_logits is None else skip_logits):
            columns = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self.lm_head(hidden_BTH[:, columns])
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )
        return result.to_tuple() if return_dict is False else result

    def generate(  # type: ignore[override] # the rest of the arguments go through
        self, inputs: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Generate as transformers does; the tokenizer's own masks and positions may be given.

        Positions of new tokens follow from the ids, so those that are given are left aside, and a
        4-D mask is read for the pads it hides.
        """
        kwargs.pop("position_ids", None)
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            kwargs["attention_mask"] = (~mask[:, 0, -1].bool()).long()
        return GenerationMixin.generate(self, inputs, **kwargs)  # type: ignore[arg-type] # a mixin

    def prepare_inputs_for_generation(  # type: ignore[override] # the rest goes through
        self, input_ids: Any, attention_mask: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Give a step's inputs, positions worked out from the whole rows."""
        inputs: dict[str, Any] = GenerationMixin.prepare_inputs_for_generation(
            self,  # type: ignore[arg-type] # a mixin
            input_ids,
            attention_mask=attention_mask,
            **kwargs,
        )
        spans = places.find_spans(input_ids, attention_mask, self.config)
        full = places.positions(spans, 0, input_ids.shape[1], self.config)
        inputs["position_ids"] = full[..., -inputs["input_ids"].shape[1] :]
        return inputs


def _prefix_encoder(config: ChatGLMV1Config) -> PrefixEncoder:
    return PrefixEncoder(
        config.pre_seq_len or 0,
        num_layers=config.num_layers,
        num_heads=config.num_attention_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        hidden_size=config.hidden_size,
        embedding_size=config.hidden_size,
        projection=config.prefix_projection,
    )
