"""Alpaca-LoRA's `finetune.py`: LoRA on LLaMA.

Flags and defaults: the repository tloen/alpaca-lora at its last commit, 8bb8579.
"""

from __future__ import annotations

from raytune_glm.legacy.launchers import workers
from raytune_glm.legacy.places import results_folder
from raytune_glm.legacy.table import Flag, Given, Setting, Tool, boolean, names, required

_WANDB = (
    "Weights & Biases takes its own settings from the environment: write WANDB_PROJECT=name (and "
    "the like) before the command, and run.track=[wandb] behind its flags"
)
_RESUME = (
    "the same command goes on where it was interrupted, by itself; an adapter of the old tool "
    "cannot be trained further"
)

FLAGS: dict[str, Flag] = {
    "base_model": Flag(to="model.path"),
    "data_path": Flag(default="yahma/alpaca-cleaned", combined="data.train"),
    "output_dir": Flag(default="./lora-alpaca", combined="run.storage, run.name"),
    "batch_size": Flag(
        read=int, default=128, to="train.batch_size", note="rows of a step, over all workers"
    ),
    "micro_batch_size": Flag(read=int, default=4, to="train.micro_batch_size"),
    "num_epochs": Flag(read=int, default=3, to="train.epochs"),
    "learning_rate": Flag(read=float, default=3e-4, to="train.learning_rate"),
    "cutoff_len": Flag(read=int, default=256, combined="data.max_length, data.max_source_length"),
    "val_set_size": Flag(
        read=int,
        default=2000,
        to="data.dev_rows",
        note="other rows than finetune.py drew; their loss is on the answers alone",
    ),
    "lora_r": Flag(read=int, default=8, to="method.rank"),
    "lora_alpha": Flag(read=int, default=16, to="method.alpha"),
    "lora_dropout": Flag(read=float, default=0.05, to="method.dropout"),
    "lora_target_modules": Flag(
        read=names, default=["q_proj", "v_proj"], to="method.target_modules"
    ),
    "train_on_inputs": Flag(read=boolean, bare=True, default=True, to="data.train_on_source"),
    "add_eos_token": Flag(
        read=boolean,
        bare=True,
        aside="an answer always ends with the end token, as it did whatever the flag said",
    ),
    "group_by_length": Flag(read=boolean, bare=True, to="train.group_by_length"),
    "wandb_project": Flag(refused=_WANDB, harmless=("",)),
    "wandb_run_name": Flag(refused=_WANDB, harmless=("",)),
    "wandb_watch": Flag(refused=_WANDB, harmless=("", "false")),
    "wandb_log_model": Flag(refused=_WANDB, harmless=("", "false")),
    "resume_from_checkpoint": Flag(refused=_RESUME, harmless=("", "False", "None")),
    "prompt_template_name": Flag(default="alpaca", combined="model.template"),
}

FIXED = (
    Setting(path="model.precision", value="fp16", source="fixed in finetune.py"),
    Setting(
        path="model.quantization",
        value="int8",
        source="fixed in finetune.py; model.quantization=null to go without",
    ),
    Setting(path="method.name", value="lora", source="finetune.py has no other"),
    Setting(path="data.split_seed", value=42, source="fixed in finetune.py"),
    Setting(path="train.schedule", value="linear", source="default of transformers"),
    Setting(path="train.warmup_steps", value=100, source="fixed in finetune.py"),
    Setting(path="train.betas", value=[0.9, 0.999], source="default of transformers"),
    Setting(path="train.eval_every_steps", value=200, source="fixed in finetune.py"),
    Setting(path="train.save_total_limit", value=3, source="fixed in finetune.py"),
    Setting(path="train.log_every_steps", value=10, source="fixed in finetune.py"),
    Setting(path="train.seed", value=42, source="default of transformers"),
)


def combine(given: Given) -> list[Setting]:
    """Settings that several flags make together, and choices under other names here."""
    required(given, "base_model", "--base_model huggyllama/llama-7b")
    cutoff = given["cutoff_len"]
    settings = [
        _rows(given),
        Setting(path="data.max_length", value=cutoff, source=given.source("cutoff_len")),
        Setting(
            path="data.max_source_length",
            value=cutoff - 1,
            source="finetune.py had no limit for the source: room for an answer",
        ),
        workers(given, takes_visible_devices=False),
        *results_folder(given, "output_dir"),
    ]
    template = given["prompt_template_name"] or "alpaca"
    source = given.source("prompt_template_name")
    settings.append(Setting(path="model.template", value=template, source=source))
    return settings


def _rows(given: Given) -> Setting:
    """A file, or as for finetune.py the name of a data set on the hub."""
    written = given["data_path"]
    is_file = written.endswith((".json", ".jsonl"))
    value = written if is_file else f"hub:{written}"
    return Setting(path="data.train", value=value, source=given.source("data_path"))


ALPACA_LORA = Tool(
    name="Alpaca-LoRA", script="finetune.py", flags=FLAGS, fixed=FIXED, combine=combine
)
