"""ChatGLM2 / ChatGLM3 on today's transformers, tensor names as published.

The arithmetic is that of `modeling_chatglm.py` of THUDM/chatglm3-6b: RMSNorm, grouped-query
attention with interleaved rotary positions on the first half of each head, SwiGLU, no bias but in
the fused query-key-value projection. Attention runs through transformers' attention interface (SDPA
unless the user asks for another), with one mask a forward. Read next: `models.loss`.

Shape suffixes: B batch, T tokens of this call, S tokens with the cached ones, H hidden, N query
heads, G key-value heads, D head size, R rotated pairs of a head, V padded vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from raytune_glm.errors import ModelError
from raytune_glm.models.caching import CACHE
from raytune_glm.models.chatglm.activation import swiglu
from raytune_glm.models.chatglm.attention import (
    eager_attention,
    kept,
    rotary_tables,
    rotate_pairs,
)
from raytune_glm.models.chatglm.configuration import ChatGLMConfig
from raytune_glm.models.chatglm.norm import ChatGLMRMSNorm
from raytune_glm.models.chatglm.packed import PackedLinear, make_linear
from raytune_glm.models.chatglm.prefix import Prefix, PrefixEncoder, seeded
from raytune_glm.models.loss import labelled_loss


class ChatGLMAttention(nn.Module):
    """Grouped-query self-attention; its fused projection has queries, then keys, then values."""

    is_causal = True

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.head_dim = config.kv_channels
        self.num_heads = [
            config.num_attention_heads,
            config.num_key_value_heads,
            config.num_key_value_heads,
        ]
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.kv_channels**-0.5
        self.query_key_value = make_linear(
            config.hidden_size,
            sum(self.num_heads) * config.kv_channels,
            bias=config.add_bias_linear or config.add_qkv_bias,
            num_bits=config.quantization_bit,
        )
        self.dense = make_linear(
            config.num_attention_heads * config.kv_channels,
            config.hidden_size,
            bias=config.add_bias_linear,
            num_bits=config.quantization_bit,
        )

    def forward(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor | None,
        turns: Tensor,
        past_key_values: Cache | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        places_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; give the new hidden states and, from an eager attention, the probabilities."""
        heads_BTAD = self.query_key_value(hidden_BTH).unflatten(-1, (-1, self.head_dim))
        rotated_BTAD = rotate_pairs(heads_BTAD, turns, num_heads=sum(self.num_heads[:2]))
        query_BNTD, key_BGSD, value_BGSD = (
            part.transpose(1, 2) for part in torch.split(rotated_BTAD, self.num_heads, dim=2)
        )
        if past_key_values is not None:
            key_BGSD, value_BGSD = past_key_values.update(key_BGSD, value_BGSD, self.layer_idx)
        elif prefix is not None:
            key_BGSD = torch.cat((prefix[0], key_BGSD), dim=2)
            value_BGSD = torch.cat((prefix[1], value_BGSD), dim=2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        context_BTND, probabilities = attend(
            self,
            query_BNTD,
            key_BGSD,
            value_BGSD,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.dense(kept(context_BTND, places_to_keep).flatten(-2)), probabilities


class ChatGLMMLP(nn.Module):
    """SwiGLU: the first half of the fused projection gates the second."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        bias, num_bits = config.add_bias_linear, config.quantization_bit
        hidden, inner = config.hidden_size, config.ffn_hidden_size
        self.dense_h_to_4h = make_linear(hidden, 2 * inner, bias=bias, num_bits=num_bits)
        self.dense_4h_to_h = make_linear(inner, hidden, bias=bias, num_bits=num_bits)

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """Transform each position on its own."""
        return self.dense_4h_to_h(swiglu(self.dense_h_to_4h(hidden_BTH)))  # type: ignore[no-any-return]


class ChatGLMBlock(GradientCheckpointingLayer):
    """One pre-norm transformer layer."""

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.hidden_dropout = config.hidden_dropout
        self.input_layernorm = ChatGLMRMSNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.self_attention = ChatGLMAttention(config, layer)
        self.post_attention_layernorm = ChatGLMRMSNorm(
            config.hidden_size, eps=config.layernorm_epsilon
        )
        self.mlp = ChatGLMMLP(config)

    def forward(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor | None,
        turns: Tensor,
        past_key_values: Cache | None = None,
        places_to_keep: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Give the layer's output and, from an eager attention, its probabilities."""
        attended_BTH, probabilities = self.self_attention(
            self.input_layernorm(hidden_BTH),
            attention_mask,
            turns,
            past_key_values=past_key_values,
            places_to_keep=places_to_keep,
            **kwargs,
        )
        hidden_BTH = kept(hidden_BTH, places_to_keep) + self._dropout(attended_BTH)
        update_BTH = self.mlp(self.post_attention_layernorm(hidden_BTH))
        return hidden_BTH + self._dropout(update_BTH), probabilities

    def _dropout(self, hidden_BTH: Tensor) -> Tensor:
        return nn.functional.dropout(hidden_BTH, p=self.hidden_dropout, training=self.training)


class ChatGLMEmbedding(nn.Module):
    """Word embeddings, one level deeper than usual because the published names are."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        """Look up the ids."""
        return self.word_embeddings(input_ids_BT)  # type: ignore[no-any-return]


class ChatGLMEncoder(nn.Module):
    """The stack of layers and the norm behind it."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ChatGLMBlock(config, layer) for layer in range(config.num_layers)
        )
        self.final_layernorm = ChatGLMRMSNorm(config.hidden_size, eps=config.layernorm_epsilon)


class ChatGLMPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about both classes below."""

    config_class = ChatGLMConfig
    config: ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ChatGLMBlock"]  # noqa: RUF012 - transformers reads plain class lists
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012 - the same
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Published checkpoints hold the rotary frequencies; ours are worked out at each forward.
    _keys_to_ignore_on_load_unexpected = [r"rotary_pos_emb\.inv_freq$"]  # noqa: RUF012 - the same
    # The scales of packed weights are fp16 numbers, which bf16 would spoil.
    _keep_in_fp32_modules_strict = ["weight_scale"]  # noqa: RUF012 - the same

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, PackedLinear):  # nothing random fits packed weights
            super()._init_weights(module)  # type: ignore[no-untyped-call] # theirs


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The transformer without loss; it owns the output layer because the published names say so."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.embedding = ChatGLMEmbedding(config)
        self.encoder = ChatGLMEncoder(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.prefix_encoder = _prefix_encoder(config) if config.pre_seq_len else None
        self.gradient_checkpointing = False
        self.checks_length = True
        """Whether a call's tokens are one row each, and not many rows in a line."""
        self.post_init()  # type: ignore[no-untyped-call] # theirs

    def get_input_embeddings(self) -> nn.Module:
        """Give the word embeddings."""
        return self.embedding.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embedding.word_embeddings = value  # type: ignore[assignment]

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
            input_ids: Token ids, [B, T]; exactly one of this and `inputs_embeds`.
            attention_mask: 1 for a token, 0 for a pad, [B, S]; or a ready mask [B, 1, T, S].
            position_ids: [B, T] or [1, T]; counted from the mask (pads left out) if not given.
            past_key_values: Cache of earlier tokens, extended in place.
            inputs_embeds: Embeddings instead of ids, [B, T, H].
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
            ModelError: The sequence is longer than the configuration's `seq_length`.
            ValueError: Both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of `input_ids` and `inputs_embeds` must be given")
        hidden_BTH = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        past_key_values = self._cache(past_key_values if cache is None else cache, use_cache)
        num_cached = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        prefix = None
        if self.prefix_encoder is not None and num_cached == 0:
            prefix = self.prefix_encoder(len(hidden_BTH), hidden_BTH.dtype)
            # Under gradient checkpointing layers get no cache, so without one they get the prefix.
            past_key_values = None if past_key_values is None else seeded(past_key_values, prefix)
        elif self.prefix_encoder is not None:
            num_cached -= self.prefix_encoder.embedding.num_embeddings
        if position_ids is None:
            position_ids = _positions(hidden_BTH, attention_mask, num_cached)
        self._check_length(num_cached + hidden_BTH.shape[1])
        mask = self._mask(hidden_BTH, attention_mask, position_ids, past_key_values, prefix)
        turns = torch.complex(*rotary_tables(self.config, position_ids)).transpose(1, 2)

        states: list[Tensor] = [hidden_BTH]
        probabilities: list[Any] = []
        last = self.config.num_layers - 1
        for number, layer in enumerate(self.encoder.layers):
            hidden_BTH, layer_probabilities = layer(
                hidden_BTH,
                mask,
                turns,
                past_key_values=past_key_values,
                prefix=prefix[number] if prefix else None,
                places_to_keep=places_to_keep if number == last else None,
                **kwargs,
            )
            if output_hidden_states:
                states.append(hidden_BTH)
            if output_attentions:
                probabilities.append(layer_probabilities)
        last_BTH = self.encoder.final_layernorm(hidden_BTH)
        return BaseModelOutputWithPast(
            last_hidden_state=last_BTH,
            hidden_states=(*states[:-1], last_BTH) if output_hidden_states else None,
            attentions=tuple(probabilities) if output_attentions else None,
            **{CACHE: past_key_values if use_cache else None},
        )

    def _mask(
        self,
        hidden_BTH: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: Cache | None,
        prefix: Prefix | None,
    ) -> Any:
        """Make the one mask of a forward; a prefix is visible to every row.

        Without a mask of the caller's, rows that stand one behind the other are kept apart where
        positions start anew.
        """
        if self.prefix_encoder is not None:
            if attention_mask is not None and attention_mask.dim() == 2:
                length = self.prefix_encoder.embedding.num_embeddings
                attention_mask = nn.functional.pad(attention_mask, (length, 0), value=1)
            if past_key_values is None and prefix is not None:
                past_key_values = seeded(None, prefix[:1])
        handed: dict[str, Any] = {CACHE: past_key_values}
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_BTH,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **handed,
        )

    def _cache(self, past_key_values: Cache | None, use_cache: bool) -> Cache | None:
        """Give the cache to fill: none where layers are run a second time in the backward pass."""
        if self.gradient_checkpointing and self.training:
            return None
        if use_cache and past_key_values is None:
            return DynamicCache(config=self.config)
        return past_key_values

    def _check_length(self, length: int) -> None:
        if self.checks_length and length > self.config.seq_length:
            raise ModelError(
                f"a sequence must have at most seq_length={self.config.seq_length} tokens, but got "
                f"{length}: shorten the rows or `max_new_tokens`, or use a checkpoint with a "
                "longer position table."
            )


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    """ChatGLM2 / ChatGLM3 as a causal language model, under the published class name."""

    _tied_weights_keys = {  # noqa: RUF012 - transformers reads a plain class dict
        "transformer.output_layer.weight": "transformer.embedding.word_embeddings.weight"
    }

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.post_init()  # type: ignore[no-untyped-call] # theirs

    def get_input_embeddings(self) -> nn.Module:
        """Give the word embeddings."""
        return self.transformer.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.transformer.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Give the output layer."""
        return self.transformer.output_layer

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.transformer.output_layer = new_embeddings  # type: ignore[assignment]

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
            input_ids: As `ChatGLMModel.forward`, and so are the next four.
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
            skip_logits: Return no logits. By default so in training with labels, where the loss is
                taken from labelled rows alone and all other rows' logits would be thrown away.
            num_items_in_batch: Divide the summed loss by this and not by this batch's own count,
                as transformers' `Trainer` wants it under gradient accumulation.
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
                hidden_BTH,
                labels,
                self.transformer.output_layer,
                num_items_in_batch=num_items_in_batch,
            )
        logits = None
        if not (self.training and labels is not None if skip_logits is None else skip_logits):
            columns = (
                slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            )
            logits = self.transformer.output_layer(hidden_BTH[:, columns])
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )
        return result.to_tuple() if return_dict is False else result


def _prefix_encoder(config: ChatGLMConfig) -> PrefixEncoder:
    num_values = 2 * config.num_layers * config.num_key_value_heads * config.kv_channels
    return PrefixEncoder(
        config.pre_seq_len or 0,
        num_layers=config.num_layers,
        num_heads=config.num_key_value_heads,
        head_dim=config.kv_channels,
        hidden_size=config.hidden_size,
        embedding_size=num_values,
        projection=config.prefix_projection,
    )


def _positions(hidden_BTH: Tensor, attention_mask: Tensor | None, num_cached: int) -> Tensor:
    """Count positions from 0 at each row's first real token, as the tokenizers do.

    Without a 2-D mask the rows are taken to start at their first column.
    """
    num_tokens = hidden_BTH.shape[1]
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(num_cached, num_cached + num_tokens, device=hidden_BTH.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
