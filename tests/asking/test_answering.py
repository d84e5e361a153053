"""How answers are drawn, and how one is written while it is spoken."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_glm.answering import AnswerStream, Sampling, Speaker
from raytune_glm.errors import ConfigError
from raytune_glm.models import FAMILIES, load_model, load_tokenizer
from tests.models.conftest import write_byte_tokenizer

TEXT = "  水温 98°C，阀门👋🏽漏水。\n\n the relay 龘 is café \n"
"""Characters of one to four bytes, most of which a small vocabulary has only the bytes of."""


def chatglm3(tmp_path: Path, tiny_glm: Path) -> Any:
    return load_tokenizer(tiny_glm)


def chatglm4(tmp_path: Path, tiny_glm: Path) -> Any:
    """GLM-4's tokenizer with a vocabulary of single bytes, so that each character is cut up."""
    lines = [f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    return FAMILIES["chatglm4"].build_tokenizer(tmp_path)


def llama(tmp_path: Path, tiny_glm: Path) -> Any:
    write_byte_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize("make", [chatglm3, chatglm4, llama])
def test_a_streamed_answer_is_the_answer_in_pieces_without_broken_characters(
    make: Any, tmp_path: Path, tiny_glm: Path
) -> None:
    tokenizer, family = make(tmp_path, tiny_glm), FAMILIES[make.__name__]
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert len(ids) > len(TEXT)
    stops = family.stop_token_ids(tokenizer)[:1]
    pieces: list[str] = []
    stream = AnswerStream(lambda so_far: family.answer(tokenizer, so_far), pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for token in [*ids, *stops]:
        stream.put(torch.tensor([token]))
    stream.end()
    whole = family.answer(tokenizer, [*ids, *stops])
    assert whole == TEXT.strip()
    assert "".join(pieces) == whole == stream.written
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 20


def test_bytes_that_never_become_a_character_are_written_at_the_end(tmp_path: Path) -> None:
    tokenizer, family = chatglm4(tmp_path, tmp_path), FAMILIES["chatglm4"]
    pieces: list[str] = []
    stream = AnswerStream(lambda so_far: family.answer(tokenizer, so_far), pieces.append)
    for token in [0, ord("a"), *"漏".encode()[:2]]:
        stream.put(torch.tensor([token]))
    assert pieces == ["a"]
    stream.end()
    assert "".join(pieces) == "a\ufffd"


@pytest.fixture(scope="module")
def speaker(tiny_glm: Path) -> Speaker:
    return Speaker(
        model=load_model(tiny_glm),
        family=FAMILIES["chatglm3"],
        tokenizer=load_tokenizer(tiny_glm),
        device="cpu",
    )


def test_greedy_is_greedy_whatever_the_checkpoint_would_do(speaker: Speaker) -> None:
    plain = speaker.generate([[5, 6, 7]], Sampling(max_new_tokens=8))
    own: Any = speaker.model.generation_config
    before = own.to_dict()
    own.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=3.0, num_beams=2)
    try:
        assert speaker.generate([[5, 6, 7]], Sampling(max_new_tokens=8)) == plain
    finally:
        own.update(**{key: before[key] for key in before})


def test_drawn_answers_follow_the_seed(speaker: Speaker) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn += speaker.generate([[5, 6, 7]], Sampling(max_new_tokens=12, temperature=2.0))
    assert drawn[0] == drawn[1] != drawn[2]


def test_beams_find_an_answer_at_least_as_likely_a_token_as_the_greedy_one(
    speaker: Speaker,
) -> None:
    prompt, options = [5, 6, 7], {"max_new_tokens": 5}

    def likelihood(ids: list[int]) -> float:
        count = speaker.num_tokens(ids)
        given = torch.tensor([prompt + ids[:count]])
        with torch.inference_mode():
            odds = speaker.model(input_ids=given).logits[0].log_softmax(-1)
        total = sum(
            float(odds[len(prompt) - 1 + place, token]) for place, token in enumerate(ids[:count])
        )
        return total / count

    [greedy] = speaker.generate([prompt], Sampling(**options))
    [beamed] = speaker.generate([prompt], Sampling(**options, num_beams=6))
    assert likelihood(beamed) >= likelihood(greedy) - 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens must be at least 1, but got 0"),
        ({"temperature": -1}, "--temperature must be at least 0, but got -1"),
        ({"top_p": 1.5, "temperature": 1}, "--top-p must be above 0 and at most 1, but got 1.5"),
        ({"top_k": -1}, "--top-k must be at least 0"),
        ({"num_beams": 0}, "--num-beams must be at least 1"),
        ({"repetition_penalty": 0}, "--repetition-penalty must be above 0"),
        ({"top_p": 0.8}, "--temperature 0 draws none, and got top_p=0.8, top_k=0: add"),
        ({"top_k": 40}, "got top_p=1, top_k=40: add --temperature"),
    ],
)
def test_what_is_out_of_range_or_without_effect_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**{"max_new_tokens": 8, **settings})
