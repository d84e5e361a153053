"""The worker loop against plain PyTorch, against itself on more workers, and against a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raytune_glm.checkpoint import best_adapter, copy_checkpoint, drop_state
from raytune_glm.data import DataConfig, encode_splits
from raytune_glm.data.collation import collate
from raytune_glm.data.order import BatchOrder
from raytune_glm.engine.schedule import learning_rate_factor
from raytune_glm.models import inspect_folder, load_model, load_tokenizer
from raytune_glm.models.family import Family
from tests.worker.trainer import lines, run_in_processes, run_trials


def _spec(
    scratch: Path, runs: dict[str, dict[str, Any]], world_size: int = 1, **more: Any
) -> dict[str, Any]:
    return {
        "world_size": world_size,
        "metric": "eval_loss",
        "data_cache": str(scratch / "data"),
        "trials": [
            {"run": run | {"run": {"num_workers": world_size}}, "folder": str(scratch / name)}
            for name, run in runs.items()
        ],
        **more,
    }


def _in_each_way_of_deepspeed(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {f"zero-{stage}": {"zero_stage": stage} for stage in range(4)}
    ways["zero-2-offload"] = {"zero_stage": 2, "offload_optimizer": "cpu"}
    both = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
    ways["zero-3-offload"] = {"zero_stage": 3, **both}
    return {name: run | {"deepspeed": way} for name, way in ways.items()}


def _losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder / "train.jsonl")]


def _plain_lora(model: Any, family: Family) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = list(family.attention_modules + family.mlp_modules)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _plain_prompt_tuning(model: Any, family: Family) -> Any:
    from peft import PromptTuningConfig, get_peft_model

    words = model.get_input_embeddings()
    start = words(torch.randint(0, words.num_embeddings, (16,))).detach().clone()
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=16)
    model = get_peft_model(model, config)
    model.prompt_encoder["default"].embedding.weight.data.copy_(start)
    return model


PLAIN = {"lora": _plain_lora, "prompt_tuning": _plain_prompt_tuning}
"""Puts a method on a model by PEFT alone."""


def _plain_losses(run: dict[str, Any], scratch: Path) -> list[float]:
    """The losses of the same run in a dozen lines of PyTorch and PEFT, one pass a step."""
    train = run["train"]
    family = inspect_folder(run["model"]["path"]).family
    tokenizer = load_tokenizer(run["model"]["path"])
    rows = encode_splits(
        DataConfig(**run["data"]), family=family, tokenizer=tokenizer, cache_dir=scratch / "plain"
    ).train
    order = BatchOrder(num_rows=len(rows), batch_size=train["batch_size"], seed=1234)
    model = load_model(run["model"]["path"])
    torch.manual_seed(1234)
    model = PLAIN[run["method"]["name"]](model, family)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(train["max_steps"]):
        batch = collate([rows[i] for i in order.batch_at(step).tolist()], pad_token_id=0)
        labels = batch["labels"][:, 1:]
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = logits[:, -labels.shape[1] - 1 : -1]  # virtual tokens have logits, too
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = train["learning_rate"] * learning_rate_factor(
                step, schedule="linear", total_steps=train["max_steps"], warmup_ratio=0.1
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_every_zero_stage_and_offload_follows_plain_pytorch_on_one_worker_and_on_two(
    run: dict[str, Any], tmp_path: Path
) -> None:
    expected = _plain_losses(run, tmp_path)
    assert expected[-1] < expected[0] - 0.3

    runs = _in_each_way_of_deepspeed(run)
    run_trials(_spec(tmp_path / "1", runs), rank=0)
    assert run_in_processes(_spec(tmp_path / "2", runs, 2), tmp_path) == [0, 0]
    for world_size in ("1", "2"):
        for name in runs:
            losses = _losses(tmp_path / world_size / name)
            assert losses == pytest.approx(expected, abs=1e-5), (world_size, name)


def test_prompt_tuning_follows_plain_pytorch_and_peft(run: dict[str, Any], tmp_path: Path) -> None:
    run["method"] = {"name": "prompt_tuning", "num_virtual_tokens": 16}
    run["train"]["learning_rate"] = 0.03
    expected = _plain_losses(run, tmp_path)
    assert expected[-1] < expected[0] - 0.1
    ways = _in_each_way_of_deepspeed(run)
    runs = {name: ways[name] for name in ("zero-0", "zero-3")}
    run_trials(_spec(tmp_path, runs), rank=0)
    for name in runs:
        assert _losses(tmp_path / name) == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 0), (2, 3)])
def test_a_trial_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    world_size: int, zero_stage: int, run: dict[str, Any], tmp_path: Path
) -> None:
    run["method"]["dropout"] = 0.2
    run["train"]["eval_every_steps"] = 4
    run["deepspeed"] = {"zero_stage": zero_stage}
    whole = _spec(tmp_path, {"whole": run}, world_size)
    cut = _spec(tmp_path, {"cut": run}, world_size)

    assert run_in_processes(cut | {"kill_at_report": 3}, tmp_path) == [-9] * world_size
    for spec in (cut, whole):
        if world_size == 1:
            run_trials(spec, rank=0)
        else:
            assert run_in_processes(spec, tmp_path) == [0] * world_size

    adapters = []
    for name in ("whole", "cut"):
        folder = tmp_path / name
        # What was told before the kill is told again, in case it was lost on its way.
        told = dict.fromkeys(report["step"] for report in lines(folder / "reports.jsonl"))
        assert list(told) == [4, 8, 12, 16, 20]
        assert [line["step"] for line in lines(folder / "train.jsonl")] == list(range(1, 21))
        adapter = best_adapter(folder / "checkpoint")
        assert adapter is not None
        assert adapter.name == "step-000020"
        adapters.append(load_file(adapter / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, atol=1e-6, rtol=0)


def test_a_copy_goes_on_from_the_others_step_at_its_own_learning_rate(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 8, "eval_every_steps": 4}
    run_trials(_spec(tmp_path, {"parent": run}), rank=0)
    (tmp_path / "copy").mkdir()
    step = copy_checkpoint(tmp_path / "parent/checkpoint", tmp_path / "copy/checkpoint")
    assert step == 8
    changed = run["train"] | {"max_steps": 12, "learning_rate": 3e-3, "weight_decay": 0.5}
    run_trials(_spec(tmp_path, {"copy": run | {"train": changed}}), rank=0)
    told = lines(tmp_path / "copy/train.jsonl")
    assert [line["step"] for line in told] == [9, 10, 11, 12]
    for line in told:
        factor = learning_rate_factor(
            line["step"] - 1, schedule="linear", total_steps=12, warmup_ratio=0.1
        )
        assert line["learning_rate"] == pytest.approx(3e-3 * factor)
    first, second = (_losses(tmp_path / name) for name in ("parent", "copy"))
    assert second[0] < first[0] - 0.1, "it goes on where the other one was"


def test_a_checkpoint_keeps_the_best_adapters_and_drops_the_state_of_a_finished_trial(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 8, "eval_every_steps": 2}
    run_trials(_spec(tmp_path, {"trial": run}), rank=0)

    best = min(lines(tmp_path / "trial/reports.jsonl"), key=lambda report: report["eval_loss"])
    adapter = best_adapter(tmp_path / "trial/checkpoint")
    assert adapter is not None
    assert adapter.name == f"step-{best['step']:06d}"
    checkpoint = tmp_path / "trial/checkpoint"
    assert len(list(checkpoint.glob("adapter/*"))) == 3
    assert [state.name for state in checkpoint.glob("state/*")] == ["step-000008"]
    drop_state(checkpoint)
    assert not list(checkpoint.glob("state/*"))
    assert best_adapter(checkpoint) == adapter


def test_the_saved_adapter_gives_the_reported_loss_in_plain_transformers_and_peft(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 6, "learning_rate": 5e-3}
    run_trials(_spec(tmp_path, {"trial": run}), rank=0)
    [report] = lines(tmp_path / "trial/reports.jsonl")
    adapter = best_adapter(tmp_path / "trial/checkpoint")

    import peft
    import transformers

    import raytune_glm.models

    raytune_glm.models.register()
    base = transformers.AutoModelForCausalLM.from_pretrained(run["model"]["path"]).float().eval()
    untrained = _loss(base, run, tmp_path)
    loss = _loss(peft.PeftModel.from_pretrained(base, str(adapter)).eval(), run, tmp_path)
    assert loss == pytest.approx(report["eval_loss"], abs=1e-4)
    assert loss < untrained - 0.05


def _loss(model: Any, run: dict[str, Any], scratch: Path) -> float:
    """Mean cross entropy over all label tokens of dev, one row at a time, nothing padded."""
    tokenizer = load_tokenizer(run["model"]["path"])
    family = inspect_folder(run["model"]["path"]).family
    rows = encode_splits(
        DataConfig(**run["data"]), family=family, tokenizer=tokenizer, cache_dir=scratch / "data"
    ).dev
    assert rows is not None
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    return total / count


def test_a_loss_that_is_not_finite_ends_the_trial_with_step_and_likely_cause(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["method"]["alpha"] = 1e38
    run["train"]["learning_rate"] = 1.0
    run_trials(_spec(tmp_path, {"trial": run}), rank=0)
    [report] = lines(tmp_path / "trial/reports.jsonl")
    assert report["ending"]["state"] == "FAILED"
    assert "at step 1" in report["ending"]["error"]
    assert "train.learning_rate=1 is too high" in report["ending"]["error"]


def test_predictions_of_the_best_evaluation_are_kept_with_their_references(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 2, "metrics": ["triple_f1"]}
    run_trials(_spec(tmp_path, {"trial": run}), rank=0)
    rows = Path(run["data"]["dev"]).read_text(encoding="utf-8").splitlines()
    kept = lines(tmp_path / "trial/predictions.jsonl")
    assert [line["references"] for line in kept] == [
        [json.loads(row)["output"]] for row in rows[: len(kept)]
    ]
    assert len(kept) == run["data"]["max_dev_rows"]
    assert all(isinstance(line["prediction"], str) for line in kept)


def test_evaluating_on_two_workers_gives_what_one_worker_gives(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 1, "metrics": ["triple_f1"], "eval_batch_size": 3}
    run["data"]["max_dev_rows"] = 7  # one rank has a row and a batch more than the other
    runs = {"trial": run | {"deepspeed": {"zero_stage": 3}}}
    run_trials(_spec(tmp_path / "1", runs), rank=0)
    assert run_in_processes(_spec(tmp_path / "2", runs, 2), tmp_path) == [0, 0]
    [alone] = lines(tmp_path / "1/trial/reports.jsonl")
    [together] = lines(tmp_path / "2/trial/reports.jsonl")
    assert together["eval_loss"] == pytest.approx(alone["eval_loss"], abs=1e-5)
    assert together["triple_f1"] == alone["triple_f1"]


def test_packed_rows_train_as_rows_by_themselves_on_one_worker_and_on_two(
    run: dict[str, Any], tmp_path: Path
) -> None:
    run["train"] |= {"max_steps": 5}
    packed = run | {"train": run["train"] | {"packing": True}}
    run_trials(_spec(tmp_path / "1", {"plain": run, "packed": packed}), rank=0)
    spread = packed | {"deepspeed": {"zero_stage": 2}}
    assert run_in_processes(_spec(tmp_path / "2", {"packed": spread}, 2), tmp_path) == [0, 0]
    expected = _losses(tmp_path / "1/plain")
    for folder in (tmp_path / "1/packed", tmp_path / "2/packed"):
        assert _losses(folder) == pytest.approx(expected, abs=1e-5)
    [plain], [joined] = (lines(tmp_path / f"1/{n}/reports.jsonl") for n in ("plain", "packed"))
    assert joined["eval_loss"] == pytest.approx(plain["eval_loss"], abs=1e-5)


def test_a_trial_whose_patience_is_over_ends_complete_with_its_best(
    run: dict[str, Any], tmp_path: Path
) -> None:
    # Far too high a rate, under which the loss on two rows goes up and down.
    run["train"] |= {"max_steps": 40, "eval_every_steps": 1, "patience": 2, "learning_rate": 0.1}
    run["train"] |= {"group_by_length": True, "neftune_noise_alpha": 5.0, "schedule": "constant"}
    run["train"] |= {"batch_size": 2, "warmup_ratio": 0}
    run["data"]["max_dev_rows"] = 2
    for _ in range(2):  # the second time as if the end had been lost in a kill
        run_trials(_spec(tmp_path, {"trial": run}), rank=0)
    told = lines(tmp_path / "trial/reports.jsonl")
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    *reports, last = told[: len(told) // 2]
    assert last["ending"]["state"] == "COMPLETE"
    assert last["ending"]["note"] == "no better in 2 evaluations (train.patience)"
    best = min(reports, key=lambda report: report["eval_loss"])
    assert [report["step"] for report in reports] == list(range(1, best["step"] + 3))
    adapter = best_adapter(tmp_path / "trial/checkpoint")
    assert adapter is not None
    assert adapter.name == f"step-{best['step']:06d}"
