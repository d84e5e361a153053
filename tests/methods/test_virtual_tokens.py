"""P-Tuning v2 and prompt tuning: published sizes and files, and plain PEFT as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytune_glm.errors import ConfigError, ModelError
from raytune_glm.methods import AnyMethod, PromptTuning, PTuningV2
from raytune_glm.models import FAMILIES, load_model
from raytune_glm.models.generic import Generic
from tests.methods.conftest import Base, batch
from tests.methods.test_contract import EXAMPLES, applied, logits, train, trained
from tests.models.oracle import FAMILY_NAMES, GRADIENT, LOSS, case, worst


def published_share(method: AnyMethod) -> tuple[int, float]:
    """Parameters that train on ChatGLM-6B, and what per cent they are of all, theirs included.

    Its vocabulary still had 20,000 image tokens when the figures were published.
    """
    family = FAMILIES["chatglm"]
    shape = family.shape({**family.published["chatglm-6b"], "vocab_size": 150528})
    count = method.trainable_parameters(shape, family)
    return count, 100 * count / (shape.total_parameters + count)


def test_chatglm_6bs_prefix_has_the_published_number_of_parameters() -> None:
    # ChatGLM-Finetuning v0.1: 0.0586 % of 6.259 billion, 16 tokens x 28 layers x 4096 x 2.
    count, share = published_share(PTuningV2())
    assert count == 3_670_016
    assert round(share, 4) == 0.0586


def test_chatglm_6bs_projected_prefix_is_the_published_share() -> None:
    # ChatGLM-Finetuning v0.1: 13.26 % of 7.211 billion.
    assert round(published_share(PTuningV2(projection=True))[1], 2) == 13.26


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("example", ["p_tuning_v2", "p_tuning_v2_projected", "prompt_tuning"])
def test_plain_peft_loads_what_was_learnt(
    bases: dict[str, Base], name: str, example: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    base = bases[name]
    method, model = applied(base, example)
    train(model, example, steps=5)
    method.save(model, {n: p.detach() for n, p in trained(model).items()}, tmp_path)
    theirs: Any = PeftModel.from_pretrained(base.load(), tmp_path).eval()
    rows = {key: batch()[key][:1] for key in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        expected = theirs(**rows).logits[:, -rows["input_ids"].shape[1] :]
        ours = model(**rows).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_prompt_tuning_follows_plain_pefts_curve(bases: dict[str, Base]) -> None:
    from peft import PromptTuningConfig, get_peft_model

    base = bases["llama"]
    _, ours = applied(base, "prompt_tuning")
    theirs: Any = get_peft_model(
        base.load(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    )
    with torch.no_grad():
        [prompt], [start] = trained(theirs).values(), trained(ours).values()
        prompt.copy_(start)
    curves = [train(model, "prompt_tuning", steps=20) for model in (ours, theirs)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_p_tuning_follows_plain_pefts_curve(bases: dict[str, Base]) -> None:
    from peft import PrefixTuningConfig, get_peft_model

    base = bases["llama"]
    _, ours = applied(base, "p_tuning_v2")
    theirs: Any = get_peft_model(
        base.load(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    )
    with torch.no_grad():
        [prefix], [start] = trained(theirs).values(), trained(ours).values()
        prefix.copy_(start)
    curves = [train(model, "p_tuning_v2", steps=20) for model in (ours, theirs)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


@pytest.mark.parametrize("name", ["chatglm", "chatglm3"])
def test_a_published_prefix_checkpoint_loads(
    bases: dict[str, Base], name: str, tmp_path: Path
) -> None:
    method, model = applied(bases[name], "p_tuning_v2_projected")
    # As published: a state dict of the prefix, other tensors beside it left aside.
    saved = {n: p.detach() for n, p in trained(model).items()}
    assert set(saved) == {
        f"transformer.prefix_encoder.{part}"
        for part in (
            "embedding.weight",
            *(f"trans.{n}.{w}" for n in (0, 2) for w in ("weight", "bias")),
        )
    }
    torch.save({**saved, "transformer.other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    again = method.load(bases[name].load(), tmp_path)
    torch.testing.assert_close(logits(again, batch()), logits(model.eval(), batch()))


@pytest.mark.parametrize("example", ["p_tuning_v2", "prompt_tuning"])
@pytest.mark.parametrize("name", ["chatglm3", "llama"])
def test_another_length_than_was_trained_is_refused_on_loading(
    bases: dict[str, Base], name: str, example: str, tmp_path: Path
) -> None:
    method, model = applied(bases[name], example)
    method.save(model, {n: p.detach() for n, p in trained(model).items()}, tmp_path)
    longer = method.model_copy(update={"num_virtual_tokens": 6})
    with pytest.raises(ModelError, match="use the base and the "):
        longer.load(bases[name].load(), tmp_path)


def test_a_folder_without_a_prefix_is_refused(bases: dict[str, Base], tmp_path: Path) -> None:
    for name in ("chatglm3", "llama"):
        with pytest.raises(ModelError, match=r"must hold .*safetensors"):
            EXAMPLES["p_tuning_v2"].load(bases[name].load(), tmp_path)


def test_prompt_tuning_refuses_a_model_that_finds_its_context_by_ids(
    bases: dict[str, Base],
) -> None:
    base = bases["chatglm"]
    with pytest.raises(ConfigError, match=r"not be prompt_tuning for a chatglm model, .* p_tuning"):
        PromptTuning().check(base.shape, base.family)


def test_a_prefix_stays_where_the_model_itself_takes_caches_away() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 96, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    calm = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(5)
        base = GPT2LMHeadModel(GPT2Config(**sizes, **calm, bos_token_id=1, eos_token_id=2))
        method = PTuningV2(num_virtual_tokens=5, dropout=0.0)
        model: Any = method.apply(base, Generic(layers_path="transformer.h")).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        model(**batch()).loss.backward()
        [prefix] = trained(model).values()
        gradients.append(prefix.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_a_prefix_refuses_layers_that_see_a_window_alone(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    model = Gemma2ForCausalLM(
        Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    )
    with pytest.raises(ModelError, match="the layers of this gemma2 model are full_attention, "):
        PTuningV2().apply(model, FAMILIES["generic"])


def test_dropout_works_in_training_alone(base: Base) -> None:
    torch.manual_seed(0)
    model = PTuningV2(num_virtual_tokens=5, dropout=0.5).apply(base.load(), base.family)
    model.train()
    with torch.no_grad():
        assert float(model(**batch()).loss) != float(model(**batch()).loss)
        model.eval()
        assert float(model(**batch()).loss) == float(model(**batch()).loss)


def test_rows_sampled_in_a_beam_keep_their_prefix(bases: dict[str, Base]) -> None:
    _, model = applied(bases["llama"], "p_tuning_v2")
    train(model, "p_tuning_v2", steps=2)
    ids = batch()["input_ids"][:1, :5]
    options = {"max_new_tokens": 4, "eos_token_id": 95, "pad_token_id": 0, "do_sample": False}
    with torch.inference_mode():
        cached = model.generate(ids, num_beams=3, **options)
        plain = model.generate(ids, num_beams=3, use_cache=False, **options)
    assert cached.tolist() == plain.tolist()


@pytest.mark.shared
@pytest.mark.parametrize("projection", [True, False], ids=["projected", "direct"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_published_prefix_gives_the_originals_loss_and_gradients(
    shared: Path, family: str, projection: bool, tmp_path: Path
) -> None:
    folder = shared / "oracle" / family
    variant = "ptuning_projection" if projection else "ptuning_embedding"
    torch.save(load_file(folder / f"{variant}.safetensors"), tmp_path / "pytorch_model.bin")
    method = PTuningV2(num_virtual_tokens=4, projection=projection)
    model: Any = method.load(load_model(folder), tmp_path)
    one = case(folder, f"{variant}/batch_left_pad_labels")
    loss = model(**one.inputs).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(one.expect["loss"], abs=LOSS)
    gradients = {name: p.grad for name, p in model.named_parameters() if "prefix_encoder" in name}
    expected = {n: t for n, t in one.expect["grads"].items() if "prefix_encoder" in n}
    assert expected
    for name, theirs in expected.items():
        assert worst(gradients[name], one.tensors[theirs]) < GRADIENT, name
