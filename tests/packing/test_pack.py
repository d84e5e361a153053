"""What a trial learns in a pack: to the last digits what it learns alone in plain PyTorch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raytune_glm.packing.cache
import raytune_glm.packing.generation
from raytune_glm.data.collation import collate
from raytune_glm.errors import NonFiniteLossError
from raytune_glm.models import inspect_folder, load_model
from raytune_glm.packing.generation import generate_together
from raytune_glm.packing.pack import Pack
from tests.packing.conftest import (
    GMASK_SOP,
    Base,
    Packed,
    num_labels,
    run_of,
    solo,
    steps_of,
    train_pass,
)
from tests.shipped import MODEL

_OF_BASE = {"learning_rate": 0.001, "adam_epsilon": 1e-4}
"""For biases of keys, which a softmax does not see: their gradient is nothing but rounding, and
AdamW's usual epsilon would make steps of it."""
_PREFIX = {"name": "p_tuning_v2", "num_virtual_tokens": 3, "projection": False}
_LONG_PREFIX = {"name": "p_tuning_v2", "num_virtual_tokens": 6, "projection": True}
_LORA = {"name": "lora", "rank": 4, "target_modules": "all"}
TRIALS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "lora", "rank": 2, "dropout": 0.3}, {"seed": 1}),
    ({"name": "lora", "rank": 5, "target_modules": "all"}, {"seed": 2, "learning_rate": 0.002}),
    (
        {"name": "lora", "rank": 3, "target_modules": "mlp", "rank_stabilized": True},
        {"seed": 3, "batch_size": 6, "weight_decay": 0.1},
    ),
    ({"name": "lora", "rank": 4, "dropout": 0.1, "target_modules": "attention"}, {"seed": 4}),
    (
        {"name": "p_tuning_v2", "num_virtual_tokens": 3},
        {"seed": 5, "max_grad_norm": None, "learning_rate": 0.05},
    ),
    ({"name": "p_tuning_v2", "num_virtual_tokens": 5, "projection": True}, {"seed": 6}),
    (
        {"name": "p_tuning_v2", "num_virtual_tokens": 3, "dropout": 0.2},
        {"seed": 7, "learning_rate": 0.05},
    ),
    ({"name": "prompt_tuning", "num_virtual_tokens": 4}, {"seed": 8, "learning_rate": 0.03}),
    ({"name": "freeze", "num_trainable_layers": 1}, {"seed": 9, **_OF_BASE}),
    (
        {"name": "freeze", "num_trainable_layers": 2},
        {"seed": 10, **_OF_BASE, "batch_size": 4, "weight_decay": 0.1},
    ),
]
ALONE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "full"}, {"seed": 11, **_OF_BASE}),
    ({"name": "lora", "rank": 3, "dropout": 0.2, "use_dora": True}, {"seed": 12}),
    (
        {"name": "freeze", "module_patterns": ["output_layer", "final_layernorm"]},
        {"seed": 13, **_OF_BASE},
    ),
    ({"name": "lora", "rank": 3, "bias": "all"}, {"seed": 14, **_OF_BASE, "batch_size": 4}),
]
"""Methods that no line has room for."""


def _shipped() -> Base:
    found = inspect_folder(MODEL)
    return Base(MODEL, found.family, found.shape)


def _runs(base: Base, **train: Any) -> list[Any]:
    return [
        run_of(base, method, **{**settings, **train})
        for method, settings in TRIALS
        if not (method["name"] == "prompt_tuning" and base.family.needs_token_ids)
    ]


def _assert_as_alone(base: Base, trial: Packed) -> None:
    losses, weights = solo(base, trial.run)
    name = trial.run.method.name
    assert trial.losses == pytest.approx(losses, abs=1e-5), name
    learnt = trial.slot.trained_weights()
    assert learnt.keys() == weights.keys()
    for parameter, expected in weights.items():
        torch.testing.assert_close(learnt[parameter], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "checkpointed"),
    [("chatglm", False), ("chatglm3", False), ("chatglm3", True), ("llama", False)],
)
def test_trials_learn_what_they_learn_alone_whoever_comes_and_goes(
    architecture: str, checkpointed: bool, bases: dict[str, Base]
) -> None:
    base = bases[architecture]
    runs = _runs(base, gradient_checkpointing=checkpointed)
    pack = Pack(base.load(), base.family)
    random = np.random.Generator(np.random.PCG64(5))
    waiting = list(enumerate(runs))
    here: list[Packed] = []
    over: list[Packed] = []
    while waiting or here:
        if waiting and (not here or random.random() < 0.15):
            number, run = waiting.pop(0)
            here.append(Packed(pack, number, run))
        # Some wait out a pass, so that mates change all the time.
        chosen = [trial for trial in here if random.random() < 0.8] or here[:1]
        train_pass(pack, chosen)
        for trial in [trial for trial in here if trial.is_over]:
            pack.remove(trial.number)
            here.remove(trial)
            over.append(trial)
    assert len(over) == len(runs)
    for trial in over:
        _assert_as_alone(base, trial)


def test_trials_that_no_line_has_room_for_learn_what_they_learn_alone_and_leave_the_base(
    bases: dict[str, Base],
) -> None:
    base = bases["chatglm3"]
    loaded = base.load()
    before = {name: weight.clone() for name, weight in loaded.state_dict().items()}
    pack = Pack(loaded, base.family)
    runs = [run_of(base, method, **settings) for method, settings in [*TRIALS[:2], *ALONE]]
    trials = [Packed(pack, number, run) for number, run in enumerate(runs)]
    assert [trial.slot.is_alone for trial in trials] == [False] * 2 + [True] * len(ALONE)
    while not all(trial.is_over for trial in trials):
        train_pass(pack, [trial for trial in trials if not trial.is_over])
    for trial in trials:
        _assert_as_alone(base, trial)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_below_the_layers_that_are_trained_nothing_is_kept_for_a_backward_pass(
    bases: dict[str, Base],
) -> None:
    """Nor where trials that need it train in the same pass."""
    base = bases["chatglm3"]
    pack = Pack(base.load(), base.family)
    methods = [TRIALS[1][0], {"name": "freeze", "num_trainable_layers": 1}]
    trials = [Packed(pack, number, run_of(base, method)) for number, method in enumerate(methods)]
    kept: list[list[bool]] = []
    for layer in pack.shared.get_submodule(base.family.layers_path):
        seen: list[bool] = []
        kept.append(seen)

        def look(module: Any, given: Any, output: Any, seen: list[bool] = seen) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            seen.append(hidden.requires_grad)

        layer.register_forward_hook(look)
    train_pass(pack, trials)
    assert kept == [[True, False]] * (len(kept) - 1) + [[True, True]]


def test_slots_of_one_size_side_by_side_learn_what_they_learn_alone(bases: dict[str, Base]) -> None:
    """The one batched product in the place of a product a slot."""
    base = bases["chatglm3"]
    method = {"name": "lora", "rank": 4, "target_modules": "all"}
    pack = Pack(base.load(), base.family)
    # One seed for the rows of all, and so of like sizes; each has its own rate.
    runs = [run_of(base, method, seed=3, learning_rate=rate) for rate in (1e-3, 3e-3, 1e-2)]
    trials = [Packed(pack, number, run) for number, run in enumerate(runs)]
    while not trials[0].is_over:
        train_pass(pack, trials)
    for trial in trials:
        _assert_as_alone(base, trial)


def test_a_trial_that_diverges_does_nothing_to_its_mates(bases: dict[str, Base]) -> None:
    base = bases["chatglm3"]
    pack = Pack(base.load(), base.family)
    *mates, bad = (
        Packed(pack, number, run)
        for number, run in enumerate(
            [
                *_runs(base),
                run_of(
                    base,
                    {"name": "lora", "rank": 4, "target_modules": "all"},
                    learning_rate=9.0,
                    max_grad_norm=None,
                    schedule="constant",
                    seed=3,
                ),
            ]
        )
    )
    with torch.no_grad():  # what it trains from here on is not a number
        next(iter(bad.slot.trained.values())).fill_(math.nan)
    batches = {trial.number: trial.rows for trial in (bad, *mates)}
    weights = {trial.number: trial.weight for trial in (bad, *mates)}
    losses = pack.train_pass(batches, loss_weights=weights)
    with pytest.raises(NonFiniteLossError, match="the loss became nan at step 1"):
        bad.slot.step(losses[bad.number], number=0, total_steps=40)
    pack.remove(bad.number)
    for trial in mates:
        trial.passed(losses[trial.number])
    while not all(trial.is_over for trial in mates):
        train_pass(pack, [trial for trial in mates if not trial.is_over])
    for trial in mates:
        _assert_as_alone(base, trial)


def test_evaluation_is_that_of_the_trial_alone_and_leaves_no_trace(base: Base) -> None:
    pack = Pack(base.load(), base.family)
    trials = [Packed(pack, number, run) for number, run in enumerate(_runs(base))]
    while not trials[1].is_over:
        train_pass(pack, [trial for trial in trials if not trial.is_over])
        sums = pack.loss_sums({trial.number: trial.rows for trial in trials})
    for trial in trials:
        model: Any = trial.slot.model.eval()
        with torch.inference_mode():
            expected = sum(
                float(
                    model(
                        input_ids=torch.tensor([row["input_ids"]]),
                        attention_mask=torch.ones(1, len(row["input_ids"]), dtype=torch.long),
                        labels=torch.tensor([row["labels"]]),
                        use_cache=False,
                    ).loss
                )
                * sum(label != -100 for label in row["labels"])
                for row in trial.rows
            )
        assert sums[trial.number] == pytest.approx(expected, abs=1e-4)
    _assert_as_alone(base, trials[1])


def test_updates_stay_on_their_own_rows_behind_a_trial_that_has_copies(
    bases: dict[str, Base],
) -> None:
    """Together they are only evaluated; layers that one trains are linears that others update."""
    base = bases["chatglm3"]
    pack = Pack(base.load(), base.family)
    methods = [_LORA, {"name": "freeze", "num_trainable_layers": 2}, _LORA, _PREFIX]
    trials = [
        Packed(pack, number, run_of(base, method, seed=number, learning_rate=0.03))
        for number, method in enumerate(methods)
    ]
    for _ in range(10):
        train_pass(pack, trials)
    together = pack.loss_sums({trial.number: trial.rows for trial in trials})
    for trial in trials:
        model: Any = trial.slot.model.eval()
        with torch.inference_mode():
            batch = collate(trial.rows, pad_token_id=0)
            expected = model(**batch, use_cache=False).loss * num_labels(trial.rows)
        assert together[trial.number] == pytest.approx(float(expected), rel=1e-5)
        [alone] = generate_together(
            pack, {trial.number: [[5, 6, 7]]}, stops=[2], max_new_tokens=4, pad_token_id=0
        )[trial.number]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[5, 6, 7, *alone[:-1]]]), use_cache=False).logits
        assert alone == logits[0, 2:].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("architecture", "methods"),
    [
        (
            "chatglm3",
            [
                _LORA,
                _PREFIX,
                {"name": "freeze", "num_trainable_layers": 2},
                {"name": "prompt_tuning", "num_virtual_tokens": 5},
                _LONG_PREFIX,
            ],
        ),
        ("chatglm", [_LORA, _LONG_PREFIX, _PREFIX]),
        ("qwen2", [_PREFIX, {"name": "prompt_tuning", "num_virtual_tokens": 2}, _LORA]),
    ],
)
def test_answers_of_trials_together_are_those_of_each_alone(
    bases: dict[str, Base],
    architecture: str,
    methods: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What each has learnt, of whatever kind, acts on its own rows of one batch."""
    base = bases[architecture]
    pack = Pack(base.load(), base.family)
    trials = [
        Packed(pack, number, run_of(base, method, seed=number, learning_rate=0.03))
        for number, method in enumerate(methods)
    ]
    for _ in range(20):
        train_pass(pack, trials)
    ends = GMASK_SOP if architecture == "chatglm" else []
    prompts = [[5, 6, 7, 8, *ends], [9, 10, *ends]]
    found = _assert_answers_as_alone(pack, trials, prompts)
    assert len({str(answers) for answers in found.values()}) == len(trials)
    # A prompt a pass, and room for one token more at a time.
    monkeypatch.setattr(raytune_glm.packing.generation, "TOKENS_A_PASS", 4)
    monkeypatch.setattr(raytune_glm.packing.cache, "_ROOM", 1)
    assert _assert_answers_as_alone(pack, trials, prompts) == found


def test_a_slot_goes_on_from_what_it_saved(bases: dict[str, Base], tmp_path: Path) -> None:
    base = bases["chatglm3"]
    method = {"name": "lora", "rank": 4, "dropout": 0.2}
    rates = {"lora_B": "4x"}
    pack = Pack(base.load(), base.family)
    whole = Packed(pack, 0, run_of(base, method, learning_rates=rates))
    for _ in range(17):
        train_pass(pack, [whole])
    whole.slot.save_state(tmp_path, "step-17")
    again = Pack(base.load(), base.family).add(0, whole.run)
    again.load_state(tmp_path, "step-17")
    resumed = Packed(Pack(base.load(), base.family), 0, whole.run)
    resumed.slot.load_state(tmp_path, "step-17")
    for _ in range(17):  # rows that were trained on before the save
        resumed.losses.append(0.0)
        resumed._next = next(resumed._passes)
    while not whole.is_over:
        train_pass(pack, [whole])
        train_pass(resumed.pack, [resumed])
    assert resumed.losses[17:] == whole.losses[17:]
    for name, weight in whole.slot.trained_weights().items():
        assert torch.equal(resumed.slot.trained_weights()[name], weight), name


@pytest.mark.parametrize(
    ("load", "tolerance"),
    [
        ({"quantization": "int8"}, 5e-3),
        ({"quantization": "nf4"}, 1e-3),
        ({"precision": "bf16"}, 0.05),
    ],
)
def test_trials_on_a_base_of_fewer_bits_follow_their_solo_curves(
    load: dict[str, Any], tolerance: float, bases: dict[str, Base]
) -> None:
    # nf4 on a CPU needs rows of 64 elements, which the tiny models do not have.
    chosen = _shipped() if load.get("quantization") == "nf4" else bases["chatglm3"]
    base = dataclasses.replace(chosen, options=load)
    pack = Pack(base.load(), base.family)
    trials = [
        Packed(pack, number, run_of(base, method, seed=number, learning_rate=3e-3))
        for number, method in enumerate(
            (
                {"name": "lora", "rank": 4, "target_modules": "all"},
                {"name": "p_tuning_v2", "num_virtual_tokens": 3, "dropout": 0.0},
            )
        )
    ]
    while not trials[0].is_over:
        train_pass(pack, trials)
    for trial in trials:
        losses, _ = solo(base, trial.run)
        assert trial.losses == pytest.approx(losses, abs=tolerance), trial.run.method.name
        [rows] = steps_of(trial.run, 1)[0]
        with torch.inference_mode():
            batch = collate(rows, pad_token_id=0)
            expected = trial.slot.model.eval()(**batch, use_cache=False).loss * num_labels(rows)
        found = pack.loss_sums({trial.number: rows})[trial.number]
        assert found == pytest.approx(float(expected), rel=tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        # Its logits are not its output layer's alone.
        {"model_type": "cohere", "logit_scale": 0.25},
        # Its tokens see three tokens and not all that are before them.
        {"model_type": "mistral", "sliding_window": 3},
    ],
    ids=lambda settings: settings["model_type"],
)
def test_models_of_other_kinds_learn_and_answer_as_they_do_alone(
    settings: dict[str, Any], bases: dict[str, Base], tmp_path: Path
) -> None:
    config = json.loads((bases["llama"].folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    (tmp_path / "tokenizer.json").write_text("{}")  # which nothing here reads
    torch.manual_seed(1)
    load_model(tmp_path, random_weights=True).save_pretrained(tmp_path)
    found = inspect_folder(tmp_path)
    base = Base(tmp_path, found.family, found.shape)
    method = {"name": "lora", "rank": 2, "target_modules": "all"}
    pack = Pack(base.load(), base.family)
    trials = [Packed(pack, number, run_of(base, method, seed=number)) for number in range(2)]
    while not trials[0].is_over:
        train_pass(pack, trials)
    for trial in trials:
        _assert_as_alone(base, trial)
    _assert_answers_as_alone(pack, trials, [[5, 6, 7, 8, 9, 10, 11], [9, 10]])


def _assert_answers_as_alone(
    pack: Pack, trials: Sequence[Packed], prompts: Sequence[list[int]]
) -> dict[int, list[list[int]]]:
    """Answer together, and hold each token to the trial's own model without a cache."""
    asked = {trial.number: prompts for trial in trials}
    found = generate_together(pack, asked, stops=[2], max_new_tokens=12, pad_token_id=0)
    for trial in trials:
        model: Any = trial.slot.model.eval()
        for prompt, answer in zip(prompts, found[trial.number], strict=True):
            ids = list(prompt)
            for token in answer:
                with torch.inference_mode():
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
                assert token == int(logits[0, -1].argmax())
                ids.append(token)
    return found
