"""First weights with a copying circuit in them, so that minutes on a CPU are enough to pretrain.

A transformer that copies an unknown word from its input has an induction circuit (Olsson et al.,
"In-context Learning and Induction Heads", 2022): in one layer a head that looks at the previous
token and writes down what it was, in the next a head that looks for the places whose previous token
is the current one and gives the token there. From random weights it takes thousands of steps to
appear; here both heads stand in layers 0 and 1 at the start, roughly, and training makes use of
them.
Read next: `training`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raytune_glm.models.chatglm.configuration import ChatGLMConfig
from raytune_glm.models.chatglm.modeling import ChatGLMAttention, ChatGLMForConditionalGeneration

_EMBEDDING_STD = 0.05
_PREVIOUS_ENERGIES = (90.0, 60.0, 40.0, 20.0, 10.0)
"""Squared amplitude of the fixed query and key in each rotary frequency, fastest first: the score
of the previous token is then at least 5 above that of any other."""
_MATCH_GAIN = 2.5
"""Gain of the query and the key that compare the current token with another's previous one."""
_COPY_GAIN = 0.4
"""Gain of what a copying head writes; from 0.3 to 0.4 the untrained model copies 70-80 % of the
tokens of a repeated random line rightly (without the circuit: none)."""
_ROTARY_BASE = 10000.0


def build(config: ChatGLMConfig, *, seed: int) -> ChatGLMForConditionalGeneration:
    """Build a model with random weights and the circuit; its embeddings should be tied.

    Args:
        config: Its sizes: at least 2 layers and 2 key-value groups.
        seed: Of the random weights.
    """
    torch.manual_seed(seed)
    model = ChatGLMForConditionalGeneration(config)
    first, second = (layer.self_attention for layer in model.transformer.encoder.layers[:2])
    width, head = config.hidden_size, config.kv_channels
    seen, written = _orthonormal(width, head).T, _orthonormal(width, head)
    with torch.no_grad():
        model.transformer.embedding.word_embeddings.weight.normal_(0, _EMBEDDING_STD)
        _look_back(first, seen, written * _EMBEDDING_STD * math.sqrt(width / head))
        _match_and_copy(second, seen, written.T)
    return model


def _orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns))[0]


def _parts(attention: ChatGLMAttention) -> tuple[int, int, int]:
    """First rows of keys and of values in the fused projection, and the size of a head."""
    queries, keys, _ = attention.sizes
    return queries, queries + keys, attention.head_dim


def _look_back(attention: ChatGLMAttention, seen_DH: Tensor, written_HD: Tensor) -> None:
    """Make head 0 look at the previous token and write a projection of it.

    Its query and key are fixed, in the biases, and differ by one position's rotation.
    """
    keys, values, size = _parts(attention)
    bias = attention.query_key_value.bias
    for pair, energy in enumerate(_PREVIOUS_ENERGIES):
        angle = _ROTARY_BASE ** (-pair / (size // 4))
        amplitude = math.sqrt(energy)
        bias[keys + 2 * pair] = amplitude
        bias[2 * pair] = amplitude * math.cos(angle)
        bias[2 * pair + 1] = -amplitude * math.sin(angle)
    attention.query_key_value.weight[values : values + size] = seen_DH
    attention.dense.weight[:, :size] = written_HD


def _match_and_copy(attention: ChatGLMAttention, seen_DH: Tensor, read_DH: Tensor) -> None:
    """Make one head of each key-value group look for the current token among the previous ones.

    They compare in the channels that are not rotated or only slowly, and copy the token they find
    through two different projections.
    """
    keys, values, size = _parts(attention)
    slow = size // 3
    heads_per_group = attention.num_key_value_groups
    copied_HD = _orthonormal(seen_DH.shape[1], 2 * size)
    weight = attention.query_key_value.weight
    for group, channels in enumerate((slice(0, size - slow), slice(slow, size))):
        head = group * heads_per_group * size
        key, value = keys + group * size, values + group * size
        copied_H1 = copied_HD[:, group * size : (group + 1) * size]
        weight[head + slow : head + size] = _MATCH_GAIN * seen_DH[channels]
        weight[key + slow : key + size] = _MATCH_GAIN * read_DH[channels]
        weight[value : value + size] = copied_H1.T
        attention.dense.weight[:, head : head + size] = _COPY_GAIN * copied_H1
