"""The ways that `makespan.py` holds packs against: `ways.py documented|sequential TRIALS OUTPUT`.

TRIALS is a JSON list of settings by dotted path, OUTPUT gets the list of their losses on dev.
`model.precision` among the settings, fp32 or bf16, is that of the base, and the same in all trials.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shipped import MODEL, data

STEPS, ROWS, TOKENS = 40, 4, 64
SEED = 1234


def environment() -> dict[str, Any]:
    """What a result is worth nothing without: processor and versions."""
    packages = ("torch", "transformers", "peft", "ray", "deepspeed", "optuna")
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def _processor() -> str | None:
    """The processor's name, where Linux tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in told.splitlines() if "model name" in line]
    return names[0] if names else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sweep_tree(num_trials: int) -> dict[str, Any]:
    """The sweep file of the comparison."""
    return {
        "model": {"path": str(MODEL)},
        "data": data(max_length=TOKENS, max_source_length=44, max_dev_rows=32),
        "method": {"name": "lora", "target_modules": "attention"},
        "train": {"max_steps": STEPS, "batch_size": ROWS, "micro_batch_size": ROWS, "seed": SEED},
        "search": {
            "metric": "eval_loss",
            "num_trials": num_trials,
            "sampler": {"name": "random"},
            "scheduler": {"name": "fifo"},
            "space": {
                "method.rank": {"choice": [4, 8, 16]},
                "train.learning_rate": {"log_range": [1e-4, 1e-2]},
            },
        },
        "run": {"name": "sweep", "ray_address": "local"},
    }


def load_rows(folder: Path) -> tuple[Any, Any]:
    """Train and dev rows, encoded."""
    from raytune_glm.data import DataConfig, encode_splits
    from raytune_glm.models import inspect_folder, load_tokenizer

    tree = sweep_tree(1)
    path = tree["model"]["path"]
    data = encode_splits(
        DataConfig(**tree["data"]),
        family=inspect_folder(path).family,
        tokenizer=load_tokenizer(path),
        cache_dir=folder,
    )
    return data.train, data.dev


def adapted(base: Any, params: dict[str, Any]) -> Any:
    """LoRA by PEFT on a base."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=params["method.rank"],
        lora_alpha=32,
        target_modules=["query_key_value", "dense"],
    )
    return get_peft_model(base, config)


def batch_of(rows: Any, step: int) -> dict[str, Any]:
    """The rows of a step."""
    from raytune_glm.data.collation import collate
    from raytune_glm.data.order import BatchOrder

    order = BatchOrder(num_rows=len(rows), batch_size=ROWS, seed=SEED)
    return collate([rows[i] for i in order.batch_at(step).tolist()], pad_token_id=0)


def rate(params: dict[str, Any], step: int) -> float:
    """The learning rate of a step."""
    from raytune_glm.engine.schedule import learning_rate_factor

    factor = learning_rate_factor(step, schedule="linear", total_steps=STEPS, warmup_ratio=0.1)
    return float(params["train.learning_rate"]) * factor


def dev_loss(model: Any, rows: Any) -> float:
    """Mean loss over the label tokens of dev."""
    import torch

    from raytune_glm.data.collation import collate

    model.eval()
    total, labels = 0.0, 0
    with torch.inference_mode():
        for first in range(0, len(rows), 16):
            chosen = [rows[i] for i in range(first, min(first + 16, len(rows)))]
            batch = collate(chosen, pad_token_id=0)
            count = int((batch["labels"][:, 1:] != -100).sum())
            total += float(model(**batch, use_cache=False).loss) * count
            labels += count
    return total / labels


def sequential(trials: list[dict[str, Any]]) -> list[float]:
    """One process, one trial after another, the base loaded once."""
    import torch

    from raytune_glm.models import load_model

    base = load_model(MODEL, precision=trials[0].get("model.precision", "fp32"))
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        train, dev = load_rows(Path(folder))
        for params in trials:
            model = adapted(base, params)
            model.train()
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
            for step in range(STEPS):
                loss = model(**batch_of(train, step), use_cache=False).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.param_groups[0]["lr"] = rate(params, step)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(dev_loss(model, dev))
            base = model.unload()
    return losses


def documented(trials: list[dict[str, Any]]) -> list[float]:
    """Tune over functions that each fit a TorchTrainer with a DeepSpeed worker."""
    import ray
    from ray import tune

    ray.init("local", log_to_driver=False, configure_logging=False)
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(_documented_trial, {"CPU": 0.01}),
            param_space={
                "params": tune.grid_search(trials),
                "folder": folder,
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=max(1, int(os.cpu_count() or 2))),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        losses = [result.metrics["eval_loss"] for result in results]
    ray.shutdown()
    return losses


def _documented_trial(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        _documented_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
        run_config=ray.train.RunConfig(
            storage_path=config["folder"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _documented_worker(config: dict[str, Any]) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    sys.path.insert(0, str(Path(__file__).parent))
    import deepspeed
    import ray.train
    import torch

    from raytune_glm.models import load_model

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    params = config["params"]
    train, dev = load_rows(Path(config["folder"]) / "data")
    model = adapted(load_model(sweep_tree(1)["model"]["path"]), params)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_batch_size": ROWS,
            "train_micro_batch_size_per_gpu": ROWS,
            "gradient_clipping": 1.0,
        },
    )
    engine.train()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(params, step)
        engine.backward(engine(**batch_of(train, step), use_cache=False).loss)
        engine.step()
    ray.train.report({"eval_loss": dev_loss(engine.module, dev)})


if __name__ == "__main__":
    way, trials_file, output_file = sys.argv[1:]
    ways = {"documented": documented, "sequential": sequential}
    found = ways[way](json.loads(Path(trials_file).read_text()))
    Path(output_file).write_text(json.dumps(found))
