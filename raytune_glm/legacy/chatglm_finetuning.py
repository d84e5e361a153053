"""ChatGLM-Finetuning's `train.py`: freeze, P-Tuning, LoRA and full on ChatGLM 1 to 3.

Flags and defaults: the repository liucongg/ChatGLM-Finetuning at its last commit, a137ad63.
"""

from __future__ import annotations

from raytune_glm.errors import ConfigError
from raytune_glm.legacy.deepspeed_file import DEFAULT, deepspeed_settings
from raytune_glm.legacy.launchers import workers
from raytune_glm.legacy.places import results_folder
from raytune_glm.legacy.table import Flag, Given, Setting, Tool, boolean, names, required

FAMILIES = {"glm": "chatglm", "glm2": "chatglm2", "glm3": "chatglm3"}
METHODS = {"lora": "lora", "freeze": "freeze", "ptuning": "p_tuning_v2", "all": "full"}

_LORA, _FREEZE, _PTUNING = (("train_type", name) for name in ("lora", "freeze", "ptuning"))

FLAGS: dict[str, Flag] = {
    "model_name_or_path": Flag(to="model.path"),
    "train_path": Flag(to="data.train"),
    "max_len": Flag(read=int, default=1024, to="data.max_length"),
    "max_src_len": Flag(read=int, default=256, to="data.max_source_length"),
    "is_skip": Flag(read=boolean, bare=True, combined="data.overlong"),
    "per_device_train_batch_size": Flag(read=int, default=16, to="train.micro_batch_size"),
    "learning_rate": Flag(read=float, default=1e-3, to="train.learning_rate"),
    "weight_decay": Flag(
        read=float,
        default=0.1,
        to="train.weight_decay",
        note="train.py took 0.1 whatever the flag said",
    ),
    "num_train_epochs": Flag(read=int, default=1, to="train.epochs"),
    "gradient_accumulation_steps": Flag(read=int, default=1, combined="train.batch_size"),
    "warmup_ratio": Flag(read=float, default=0.1, to="train.warmup_ratio"),
    "output_dir": Flag(combined="run.storage, run.name"),
    "mode": Flag(default="glm2", combined="model.family"),
    "train_type": Flag(default="lora", combined="method.name"),
    "seed": Flag(read=int, default=1234, to="train.seed"),
    "show_loss_step": Flag(read=int, default=10, to="train.log_every_steps"),
    "gradient_checkpointing": Flag(
        read=boolean, bare=True, default=False, to="train.gradient_checkpointing"
    ),
    "save_model_step": Flag(read=int, to="train.eval_every_steps"),
    "ds_file": Flag(default=DEFAULT, combined="deepspeed, model.precision, train.max_grad_norm"),
    "lora_dim": Flag(read=int, default=8, to="method.rank", when=_LORA),
    "lora_alpha": Flag(read=int, default=30, to="method.alpha", when=_LORA),
    "lora_dropout": Flag(read=float, default=0.1, to="method.dropout", when=_LORA),
    "lora_module_name": Flag(
        read=names, default=["query_key_value"], to="method.target_modules", when=_LORA
    ),
    "freeze_module_name": Flag(
        read=names,
        default=["layers.27."],
        to="method.module_patterns",
        when=_FREEZE,
        note="whole parts of names count, where train.py took any name with that text in it",
    ),
    "pre_seq_len": Flag(read=int, default=16, to="method.num_virtual_tokens", when=_PTUNING),
    "prefix_projection": Flag(
        read=boolean,
        default=True,
        to="method.projection",
        when=_PTUNING,
        note="train.py took any text for true, False too",
    ),
    # Of `deepspeed.add_config_arguments`.
    "deepspeed": Flag(bare=True, aside="every run here is DeepSpeed's"),
    "deepspeed_config": Flag(refused="train.py read --ds_file; write that"),
}

FIXED = (
    Setting(
        path="train.schedule",
        value="warmup_decay",
        source="the tool's WarmupDecayLR; its warm-up is logarithmic, whatever the JSON calls it",
    ),
    Setting(path="train.betas", value=[0.9, 0.95], source="fixed in train.py"),
    Setting(path="train.adam_epsilon", value=1e-8, source="fixed in train.py"),
)


def combine(given: Given) -> list[Setting]:
    """Settings that several flags make together, and choices under other names here."""
    required(given, "model_name_or_path", "--model_name_or_path THUDM/chatglm2-6b")
    required(given, "train_path", "--train_path data/spo_0.json")
    per_pass, passes = "per_device_train_batch_size", "gradient_accumulation_steps"
    num_workers = workers(given, takes_visible_devices=True)
    settings = [
        Setting(
            path="model.family",
            value=_choice(given, "mode", FAMILIES),
            source=given.source("mode"),
        ),
        Setting(
            path="method.name",
            value=_choice(given, "train_type", METHODS),
            source=given.source("train_type"),
        ),
        num_workers,
        Setting(
            path="train.batch_size",
            value=given[per_pass] * given[passes] * num_workers.value,
            source=f"{given.source(per_pass, passes)}; x workers",
        ),
        *deepspeed_settings(given),
        *results_folder(given, "output_dir"),
    ]
    if given["is_skip"]:
        settings.append(Setting(path="data.overlong", value="skip", source="--is_skip"))
    return settings


def _choice(given: Given, name: str, table: dict[str, str]) -> str:
    if given[name] not in table:
        raise ConfigError(f"--{name} must be one of {', '.join(table)}, but got {given[name]!r}")
    return table[given[name]]


CHATGLM_FINETUNING = Tool(
    name="ChatGLM-Finetuning", script="train.py", flags=FLAGS, fixed=FIXED, combine=combine
)
