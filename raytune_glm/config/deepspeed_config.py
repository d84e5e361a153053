"""The DeepSpeed configuration that a run amounts to, and a user's own held against it.

A file of the user's is taken as it is: what the run has no setting for goes to DeepSpeed unseen,
`"auto"` becomes the run's value, and a value that contradicts the run's is refused. Read next:
`raytune_glm.engine.deepspeed`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_glm.errors import shown

if TYPE_CHECKING:
    from raytune_glm.config.tree import RunConfig

AUTO = "auto"
_ZERO = "zero_optimization"
_ABSENT = object()

_SECTION = {
    "zero_stage": f"{_ZERO}.stage",
    "offload_optimizer": f"{_ZERO}.offload_optimizer.device",
    "offload_parameters": f"{_ZERO}.offload_param.device",
}
"""Settings of the section `deepspeed` -> where a DeepSpeed configuration has them."""
_NVME_PATHS = (f"{_ZERO}.offload_optimizer.nvme_path", f"{_ZERO}.offload_param.nvme_path")

_OLD_OFFLOADS = {"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"}
_OPTIMIZERS = ("AdamW", "Adam")
"""DeepSpeed's names of AdamW: its Adam decouples the decay too, unless `adam_w_mode` is false."""
_SCHEDULERS = {
    "WarmupDecayLR": ("linear", "warmup_decay"),
    "WarmupCosineLR": ("cosine",),
    "WarmupLR": ("constant",),
}
"""DeepSpeed's name of a schedule -> the values of `train.schedule` that have its shape."""
_NOT_TAKEN = {
    "elasticity.enabled": (False, "run.num_workers, which stay as many"),
    "amp.enabled": (False, "model.precision"),
    "tensor_parallel.autotp_size": (1, "run.num_workers, each of which has rows of its own"),
    "sequence_parallel_size": (1, "run.num_workers, each of which has rows of its own"),
}
"""What would change the batch, the precision or what a worker is: the one value that does not."""


def read_file(written: Any) -> Any:
    """Read a user's configuration where its file is named; leave a mapping as it is.

    Raises:
        ValueError: There is no such file, or it holds no JSON object.
    """
    if not isinstance(written, str | Path):
        return written
    path = Path(written).expanduser()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"must be a DeepSpeed configuration in JSON: {path}: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"must be a DeepSpeed configuration, an object, but {path} holds {read!r}")
    return read


def section_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a user's configuration says of the settings of the section `deepspeed`.

    Raises:
        ValueError: It speaks of ZeRO in the way of DeepSpeed before 0.3.
    """
    given = _without_old_names(given)
    if not isinstance(zero := given.get(_ZERO, {}), dict):
        raise ValueError(f'config.{_ZERO} must be an object with a "stage", but got {zero!r}')
    found = {setting: _at(given, path) for setting, path in _SECTION.items()}
    found["nvme_path"] = next(
        (value for path in _NVME_PATHS if (value := _at(given, path)) is not _ABSENT), _ABSENT
    )
    return {
        setting: value
        for setting, value in found.items()
        if value is not _ABSENT and value is not None and value != AUTO
    }


def deepspeed_config(run: RunConfig) -> dict[str, Any]:
    """DeepSpeed's configuration of a run: the user's, completed from the run's settings.

    fp16 runs at stage 1 at least: DeepSpeed 0.19 divides the gradient by the loss scale at stage 0
    (`FP16_UnfusedOptimizer`) although `backward` has not multiplied the loss by it.
    """
    built = _without_old_names(run.deepspeed.config or {})
    # The optimizer and its schedule are built from the run, which these were held to.
    for block in ("optimizer", "scheduler"):
        built.pop(block, None)
    for path, (value, _) in _run_values(run).items():
        _put(built, path, value)
    _drop_autos(built)
    if run.model.precision == "fp16":
        built[_ZERO]["stage"] = max(1, run.deepspeed.zero_stage)
    built.setdefault("steps_per_print", 10**9)
    return built


def contradictions(run: RunConfig) -> list[str]:
    """Every value of the user's configuration that the run's settings do not agree with."""
    if run.deepspeed.config is None:
        return []
    given = _without_old_names(run.deepspeed.config)
    values = {**_run_values(run), **_optimizer_values(run)}
    found = [
        f"{path}={json.dumps(written)} contradicts {setting}"
        for path, (value, setting) in values.items()
        if (written := _at(given, path)) not in (_ABSENT, AUTO) and not _same(written, value)
    ]
    return found + list(_of_other_kind(given, run))


def _run_values(run: RunConfig) -> dict[str, tuple[Any, str]]:
    """Path in DeepSpeed's configuration -> the run's value, and the setting that says so."""
    train, settings, precision = run.train, run.deepspeed, run.model.precision
    step = f"{train.batch_size} / ({train.micro_batch_size} x {run.run.num_workers})"
    return {
        "train_batch_size": (train.batch_size, f"train.batch_size={train.batch_size}"),
        "train_micro_batch_size_per_gpu": (
            train.micro_batch_size,
            f"train.micro_batch_size={train.micro_batch_size}",
        ),
        "gradient_accumulation_steps": (
            run.gradient_accumulation_steps,
            f"train.batch_size / (train.micro_batch_size x run.num_workers) = {step}",
        ),
        "gradient_clipping": (
            train.max_grad_norm or 0.0,
            f"train.max_grad_norm={shown(train.max_grad_norm)}",
        ),
        "bf16.enabled": (precision == "bf16", f"model.precision={precision}"),
        "fp16.enabled": (precision == "fp16", f"model.precision={precision}"),
        **{
            path: (value, f"deepspeed.{setting}={value}")
            for setting, path in _SECTION.items()
            if (value := getattr(settings, setting)) != "none"
            or (settings.config is not None and _at(settings.config, path) is not _ABSENT)
        },
        **{
            path: (str(settings.nvme_path), f"deepspeed.nvme_path={settings.nvme_path}")
            for path, device in zip(
                _NVME_PATHS, (settings.offload_optimizer, settings.offload_parameters), strict=True
            )
            if device == "nvme"
        },
    }


def _optimizer_values(run: RunConfig) -> dict[str, tuple[Any, str]]:
    """The same for what the optimizer is built from, which DeepSpeed is not told."""
    names = {
        "lr": "learning_rate",
        "betas": "betas",
        "eps": "adam_epsilon",
        "weight_decay": "weight_decay",
    }
    found = {}
    for theirs, ours in names.items():
        value = getattr(run.train, ours)
        value = list(value) if isinstance(value, tuple) else value
        found[f"optimizer.params.{theirs}"] = (value, f"train.{ours}={value}")
    found["scheduler.params.warmup_max_lr"] = found["optimizer.params.lr"]
    return found


def _of_other_kind(given: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
    """Blocks that mean another optimizer, schedule or way of working than the run's."""
    optimizer, scheduler = _at(given, "optimizer.type"), _at(given, "scheduler.type")
    if optimizer not in (_ABSENT, AUTO, *_OPTIMIZERS):
        yield f"optimizer.type={json.dumps(optimizer)} contradicts AdamW, which every run trains by"
    if _at(given, "optimizer.params.adam_w_mode") is False:
        yield "optimizer.params.adam_w_mode=false contradicts AdamW, which every run trains by"
    shapes = _SCHEDULERS.get(scheduler, ()) if isinstance(scheduler, str) else ()
    if scheduler not in (_ABSENT, AUTO) and run.train.schedule not in shapes:
        yield (
            f"scheduler.type={json.dumps(scheduler)} contradicts train.schedule="
            f"{run.train.schedule}"
        )
    for name in ("total_num_steps", "warmup_num_steps", "warmup_ratio"):
        steps = _at(given, f"scheduler.params.{name}")
        if steps not in (_ABSENT, AUTO):
            yield (
                f"scheduler.params.{name}={json.dumps(steps)} contradicts the run's own count, "
                f"train.warmup_ratio={run.train.warmup_ratio:g} of all its steps"
            )
    for path, (harmless, setting) in _NOT_TAKEN.items():
        written = _at(given, path)
        if written not in (_ABSENT, AUTO) and written != harmless:
            yield f"{path}={json.dumps(written)} contradicts {setting}"


def _without_old_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that says `bf16` and `offload_optimizer` where it said it in a former way."""
    copied = copy.deepcopy(dict(given))
    if "bfloat16" in copied:
        copied.setdefault("bf16", copied.pop("bfloat16"))
    zero = copied.get(_ZERO)
    if isinstance(zero, dict):
        for old, new in (
            ("cpu_offload", "offload_optimizer"),
            ("cpu_offload_param", "offload_param"),
        ):
            if zero.pop(old, None) is True:
                zero.setdefault(new, {"device": "cpu"})
    return copied


def _at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or `_ABSENT`."""
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return _ABSENT
        node = node[key]
    return node


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _same(written: Any, value: Any) -> bool:
    """Whether a value of a JSON file is the run's: 1 is 1.0, and `true` is neither."""
    if isinstance(value, bool) or isinstance(written, bool):
        return written is value
    return bool(written == value)


def _drop_autos(tree: dict[str, Any]) -> None:
    """Leave to DeepSpeed's defaults what was left open and the run has no setting for."""
    for key, value in list(tree.items()):
        if value == AUTO:
            del tree[key]
        elif isinstance(value, dict):
            _drop_autos(value)
