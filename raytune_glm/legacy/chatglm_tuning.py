"""ChatGLM-Tuning's `finetune.py`, LoRA on ChatGLM-6B, with its `tokenize_dataset_rows.py`.

Flags and defaults: the repository mymusise/ChatGLM-Tuning at 9973930. `finetune.py` also takes all
of transformers' TrainingArguments (4.27.1); here are those that published commands used and those
that have a setting here.
"""

from __future__ import annotations

from pathlib import Path

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.launchers import workers
from raytune_glm.legacy.places import results_folder
from raytune_glm.legacy.table import Flag, Given, Setting, Tool, boolean, names

_TENSORBOARD = "TensorBoard's events are in the results folder; run.track names other trackers"
_ONE_WAY = "DeepSpeed trains with one optimizer, AdamW of torch: leave it out"
_TEXT = (
    "rows are text here, and made into tokens for the model at hand: give the JSON Lines that "
    "tokenize_dataset_rows.py read, by --jsonl_path"
)
_RESUME = (
    "the same command goes on where it was interrupted, by itself; an adapter of the old tool "
    "cannot be trained further"
)
_SAVES = "a checkpoint is saved every --save_steps and after the last step"

FLAGS: dict[str, Flag] = {
    # tokenize_dataset_rows.py, whose work is done on the way.
    "jsonl_path": Flag(combined="data.train"),
    "dataset_path": Flag(default="data/alpaca", combined="data.train"),
    "max_seq_length": Flag(
        read=int, default=384, combined="data.max_length, data.max_source_length"
    ),
    "skip_overlength": Flag(read=boolean, default=False, combined="data.overlong"),
    "version": Flag(aside="the checkpoint's files tell its generation"),
    "save_path": Flag(aside="encoded rows are kept in the results folder"),
    # finetune.py
    "model_path": Flag(aside="finetune.py never read it; --output_dir says where results go"),
    "lora_rank": Flag(read=int, default=8, to="method.rank"),
    # TrainingArguments
    "output_dir": Flag(default="output", combined="run.storage, run.name"),
    "per_device_train_batch_size": Flag(read=int, default=8, to="train.micro_batch_size"),
    "gradient_accumulation_steps": Flag(read=int, default=1, combined="train.batch_size"),
    "per_device_eval_batch_size": Flag(read=int, to="train.eval_batch_size"),
    "max_steps": Flag(read=int, combined="train.max_steps"),
    "num_train_epochs": Flag(read=float, default=3.0, combined="train.epochs"),
    "learning_rate": Flag(read=float, default=5e-5, to="train.learning_rate"),
    "weight_decay": Flag(read=float, default=0.0, to="train.weight_decay"),
    "adam_beta1": Flag(read=float, default=0.9, combined="train.betas"),
    "adam_beta2": Flag(read=float, default=0.999, combined="train.betas"),
    "adam_epsilon": Flag(read=float, default=1e-8, to="train.adam_epsilon"),
    "max_grad_norm": Flag(read=float, default=1.0, combined="train.max_grad_norm"),
    "lr_scheduler_type": Flag(default="linear", combined="train.schedule"),
    "warmup_ratio": Flag(read=float, default=0.0, to="train.warmup_ratio"),
    "warmup_steps": Flag(read=int, to="train.warmup_steps"),
    "save_steps": Flag(read=int, default=500, to="train.eval_every_steps"),
    "logging_steps": Flag(read=int, default=500, to="train.log_every_steps"),
    "seed": Flag(read=int, default=42, to="train.seed"),
    "group_by_length": Flag(read=boolean, bare=True, to="train.group_by_length"),
    "neftune_noise_alpha": Flag(read=float, to="train.neftune_noise_alpha"),
    "fp16": Flag(read=boolean, bare=True, default=False, combined="model.precision"),
    "bf16": Flag(read=boolean, bare=True, default=False, combined="model.precision"),
    "gradient_checkpointing": Flag(
        read=boolean,
        bare=True,
        default=True,
        to="train.gradient_checkpointing",
        note="finetune.py switched it on",
    ),
    "deepspeed": Flag(to="deepspeed.config"),
    "save_total_limit": Flag(
        read=int,
        to="train.save_total_limit",
        note="of the best adapters; the last state is kept beside them",
    ),
    "save_strategy": Flag(refused=_SAVES, harmless=("steps",)),
    "evaluation_strategy": Flag(
        refused="finetune.py had no rows to evaluate on: give data.dev or data.dev_rows",
        harmless=("no",),
    ),
    "resume_from_checkpoint": Flag(refused=_RESUME),
    "optim": Flag(refused=_ONE_WAY, harmless=("adamw_hf", "adamw_torch")),
    "report_to": Flag(read=names, aside=_TENSORBOARD),
    "logging_dir": Flag(aside=_TENSORBOARD),
    "run_name": Flag(aside="--output_dir names the run"),
    "remove_unused_columns": Flag(bare=True, aside="fields that no format knows are left aside"),
    "overwrite_output_dir": Flag(
        bare=True, aside="the same command goes on; other settings in the same folder are refused"
    ),
    "ddp_find_unused_parameters": Flag(bare=True, aside="DeepSpeed has no such setting"),
    "dataloader_num_workers": Flag(aside="rows are encoded once, before training"),
    "do_train": Flag(bare=True, aside="training is what this command does"),
    "disable_tqdm": Flag(bare=True, aside="without a terminal there is no bar"),
}

FIXED = (
    Setting(path="model.path", value="THUDM/chatglm-6b", source="fixed in finetune.py"),
    Setting(
        path="model.quantization",
        value="int8",
        source="fixed in finetune.py; model.quantization=null to go without",
    ),
    Setting(path="method.name", value="lora", source="finetune.py has no other"),
    Setting(path="method.alpha", value=32, source="fixed in finetune.py"),
    Setting(path="method.dropout", value=0.1, source="fixed in finetune.py"),
)

_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant_with_warmup": "constant"}


def combine(given: Given) -> list[Setting]:
    """Settings that several flags make together, and choices under other names here."""
    per_pass, passes = "per_device_train_batch_size", "gradient_accumulation_steps"
    num_workers = workers(given, takes_visible_devices=False)
    length = given["max_seq_length"]
    settings = [
        _rows(given),
        Setting(path="data.max_length", value=length, source=given.source("max_seq_length")),
        Setting(
            path="data.max_source_length",
            value=length - RESERVED_TOKENS,
            source="room for the special tokens and for an answer",
        ),
        Setting(
            path="model.precision",
            value=next((name for name in ("fp16", "bf16") if given[name]), "fp32"),
            source=given.source("fp16", "bf16"),
        ),
        num_workers,
        Setting(
            path="train.batch_size",
            value=given[per_pass] * given[passes] * num_workers.value,
            source=f"{given.source(per_pass, passes)}; x workers",
        ),
        _budget(given),
        _schedule(given),
        Setting(
            path="train.betas",
            value=[given["adam_beta1"], given["adam_beta2"]],
            source=given.source("adam_beta1", "adam_beta2"),
        ),
        Setting(
            path="train.max_grad_norm",
            value=given["max_grad_norm"] or None,
            source=given.source("max_grad_norm"),
        ),
        *results_folder(given, "output_dir"),
    ]
    if given["skip_overlength"]:
        source = given.source("skip_overlength")
        settings.append(Setting(path="data.overlong", value="skip", source=source))
    return settings


RESERVED_TOKENS = 4
"""Tokens of a row of ChatGLM-6B besides the source: `[gMASK]`, `<sop>`, `<eop>`, and one of the
answer."""


def _rows(given: Given) -> Setting:
    """The text rows, which `--dataset_path` may also name; the old tool's token files it cannot."""
    name = "dataset_path" if given["jsonl_path"] is None else "jsonl_path"
    if name == "dataset_path" and not given[name].endswith((".json", ".jsonl")):
        raise ConfigError(f"--dataset_path cannot be honoured, {Path(given[name])}: {_TEXT}")
    return Setting(path="data.train", value=given[name], source=f"--{name}")


def _budget(given: Given) -> Setting:
    """Steps or epochs: transformers takes the steps where both are there."""
    name = "max_steps" if (given["max_steps"] or -1) > 0 else "num_train_epochs"
    path = {"max_steps": "train.max_steps", "num_train_epochs": "train.epochs"}[name]
    return Setting(path=path, value=given[name], source=given.source(name))


def _schedule(given: Given) -> Setting:
    name = given["lr_scheduler_type"]
    if name not in _SCHEDULES:
        raise ConfigError(
            f"--lr_scheduler_type must be one of {', '.join(_SCHEDULES)}, but got {name!r}"
        )
    source = given.source("lr_scheduler_type")
    return Setting(path="train.schedule", value=_SCHEDULES[name], source=source)


CHATGLM_TUNING = Tool(
    name="ChatGLM-Tuning", script="finetune.py", flags=FLAGS, fixed=FIXED, combine=combine
)
