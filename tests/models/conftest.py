"""Tiny checkpoints of our own making, so that most tests need nothing from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

CHATGLM_CONFIG = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "num_layers": 2,
    "padded_vocab_size": 384,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "kv_channels": 8,
    "num_attention_heads": 4,
    "seq_length": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "layernorm_epsilon": 1e-5,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CORPUS = (
    "冷却水温度高，风扇不转。 The fan does not turn; check the relay. "
    "泵 阀 管 路 漏 水 abc def ghi\n"
)


def write_vocabulary(path: Path) -> None:
    """Train a sentencepiece model in ChatGLM2's layout: BPE, bytes at 3, nothing normalised."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 4),
        model_prefix=str(path.with_suffix("")),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )


def write_chatglm(folder: Path, **overrides: Any) -> Path:
    """Write a random ChatGLM3 checkpoint with a tokenizer, in the published layout."""
    from raytune_glm.models.chatglm.configuration import ChatGLMConfig
    from raytune_glm.models.chatglm.modeling import ChatGLMForConditionalGeneration

    torch.manual_seed(7)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**{**CHATGLM_CONFIG, **overrides}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**CHATGLM_CONFIG, **overrides}))
    write_vocabulary(folder / "tokenizer.model")
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ChatGLMTokenizer", "name_or_path": "THUDM/chatglm3-6b"})
    )
    return folder


@pytest.fixture(scope="session")
def chatglm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatGLM3 checkpoint. Shared by all tests, so none may write to it."""
    return write_chatglm(tmp_path_factory.mktemp("chatglm"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA checkpoint with a byte-level tokenizer without chat template. Read-only, too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


def write_byte_tokenizer(folder: Path, *, chat_template: str | None = None) -> None:
    """Write a byte-level BPE tokenizer trained on our own text."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        [CORPUS], vocab_size=380, special_tokens=["<unk>", "<s>", "</s>", "<|end|>"]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<|end|>"],
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
