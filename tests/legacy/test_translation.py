"""Old commands: a published flag becomes a setting, is left aside for a reason, or is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytune_glm.config import SweepConfig, parse_run
from raytune_glm.errors import ConfigError
from raytune_glm.legacy import TOOLS
from raytune_glm.legacy.command import is_old_command
from raytune_glm.legacy.launchers import LAUNCHER_FLAGS
from raytune_glm.legacy.table import Tool
from raytune_glm.legacy.translation import Translation, translate_command

BY_NAME = {tool.name: tool for tool in TOOLS}

PUBLISHED = {
    "ChatGLM-Finetuning": """
        train_path model_name_or_path per_device_train_batch_size max_len max_src_len is_skip
        learning_rate weight_decay num_train_epochs gradient_accumulation_steps warmup_ratio mode
        train_type freeze_module_name seed ds_file gradient_checkpointing show_loss_step
        save_model_step output_dir pre_seq_len prefix_projection lora_dim lora_alpha lora_dropout
        lora_module_name local_rank master_port""",
    "ChatGLM-Tuning": """
        jsonl_path save_path max_seq_length skip_overlength version dataset_path lora_rank
        per_device_train_batch_size gradient_accumulation_steps max_steps num_train_epochs
        save_steps save_total_limit learning_rate fp16 remove_unused_columns logging_steps
        output_dir ddp_find_unused_parameters""",
    "Alpaca-LoRA": """
        base_model data_path output_dir batch_size micro_batch_size num_epochs learning_rate
        cutoff_len val_set_size lora_r lora_alpha lora_dropout lora_target_modules train_on_inputs
        add_eos_token group_by_length wandb_project wandb_run_name wandb_watch wandb_log_model
        resume_from_checkpoint prompt_template_name nproc_per_node master_port""",
}
"""The flags of the published commands and of the scripts' own parsers."""

ENOUGH = {
    "ChatGLM-Finetuning": "--train_path rows.json --model_name_or_path glm",
    "ChatGLM-Tuning": "--jsonl_path rows.jsonl",
    "Alpaca-LoRA": "--base_model llama --data_path rows.json",
}
"""The shortest command of each tool."""

FREEZE = (
    "--train_path data/spo_0.json --model_name_or_path ChatGLM-6B/ "
    "--per_device_train_batch_size 1 --max_len 1560 --max_src_len 1024 --learning_rate 1e-4 "
    "--weight_decay 0.1 --num_train_epochs 2 --gradient_accumulation_steps 4 --warmup_ratio 0.1 "
    '--mode glm --train_type freeze --freeze_module_name "layers.27.,layers.26." --seed 1234 '
    "--ds_file ds_zero2_no_offload.json --gradient_checkpointing --show_loss_step 10 "
    "--output_dir ./output-glm"
)


def translated(command: str, **environment: str) -> Translation:
    return translate_command(shlex.split(command), TOOLS, environment=environment)


def settings(command: str, **environment: str) -> dict[str, Any]:
    """The run file's lines, by dotted path."""
    tree = yaml.safe_load(translated(command, **environment).text)
    return {f"{section}.{key}": v for section, keys in tree.items() for key, v in keys.items()}


def run_of(command: str, **environment: str) -> SweepConfig:
    old = translated(command, **environment)
    return parse_run(old.text, old.overrides, source="the command")


@pytest.mark.parametrize(
    ("tool", "flag"), [(tool, flag) for tool, flags in PUBLISHED.items() for flag in flags.split()]
)
def test_every_published_flag_is_known(tool: str, flag: str) -> None:
    assert flag in {**LAUNCHER_FLAGS, **BY_NAME[tool].flags}


@pytest.mark.parametrize(
    ("tool", "flag"), [(tool, name) for tool in TOOLS for name in {**LAUNCHER_FLAGS, **tool.flags}]
)
def test_a_flag_is_translated_left_aside_or_refused_and_one_of_them_alone(
    tool: Tool, flag: str
) -> None:
    row = {**LAUNCHER_FLAGS, **tool.flags}[flag]
    assert sum(map(bool, (row.to, row.combined, row.aside, row.refused))) == 1


OTHER_VALUES: dict[str, str] = {
    "is_skip": "",
    "mode": "glm3",
    "train_type": "all",
    "ds_file": "ds_zero3_offload.json",
    "skip_overlength": "True",
    "fp16": "",
    "bf16": "",
    "max_steps": "7",
    "dataset_path": "other.jsonl",
    "jsonl_path": "other.jsonl",
    "lr_scheduler_type": "cosine",
    "data_path": "other.json",
    "prompt_template_name": "vigogne",
    "cutoff_len": "300",
    "output_dir": "other",
    "num_gpus": "3",
    "nproc_per_node": "3",
}


def flags_of(tool: Tool) -> dict[str, Any]:
    return {**LAUNCHER_FLAGS, **tool.flags}


@pytest.mark.parametrize(
    ("tool", "flag"),
    [(tool.name, name) for tool in TOOLS for name, flag in flags_of(tool).items() if flag.combined],
)
def test_a_flag_that_is_neither_refused_nor_left_aside_changes_the_run_file(
    tool: str, flag: str
) -> None:
    if flag == "dataset_path":
        before, after = "--dataset_path a.jsonl", f"--dataset_path {OTHER_VALUES[flag]}"
    else:
        before = ENOUGH[tool]
        value = OTHER_VALUES.get(flag, "0.25" if "beta" in flag or "norm" in flag else "5")
        after = f"{before} --{flag} {value}"
    assert settings(before) != settings(after)


@pytest.mark.parametrize(
    ("tool", "flag"),
    [(t.name, name) for t in TOOLS for name, flag in flags_of(t).items() if flag.refused],
)
def test_what_cannot_be_honoured_is_refused_by_name_with_a_remedy(tool: str, flag: str) -> None:
    value = "9" if flag in ("nnodes", "num_nodes") else "thing"
    with pytest.raises(ConfigError, match=f"--{flag} cannot be honoured: .{{20}}"):
        translated(f"{ENOUGH[tool]} --{flag} {value}")


@pytest.mark.parametrize(
    ("tool", "flag"),
    [(t.name, name) for t in TOOLS for name, flag in flags_of(t).items() if flag.aside],
)
def test_what_is_left_aside_is_told_with_the_reason(tool: str, flag: str) -> None:
    assert f"# --{flag} is left aside: " in translated(f"{ENOUGH[tool]} --{flag} true").text


def test_the_readme_command_becomes_the_run_that_it_describes() -> None:
    run = run_of(FREEZE)
    assert run.model.path == "ChatGLM-6B/"
    assert (run.model.family, run.model.precision) == ("chatglm", "fp16")
    assert run.data.train == ("data/spo_0.json",)
    assert (run.data.max_length, run.data.max_source_length) == (1560, 1024)
    assert run.method.model_dump()["name"] == "freeze"
    assert run.method.model_dump()["module_patterns"] == ("layers.27.", "layers.26.")
    assert (run.train.batch_size, run.train.micro_batch_size) == (4, 1)
    assert (run.train.learning_rate, run.train.epochs) == (1e-4, 2)
    assert run.train.betas == (0.9, 0.95)
    assert run.train.schedule == "warmup_decay"
    assert run.train.gradient_checkpointing is True
    assert run.train.max_grad_norm == 1.0
    assert run.deepspeed.zero_stage == 2
    assert run.run.folder == Path("output-glm").resolve()


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (
            "--train_type lora --lora_dim 16 --lora_alpha 64 --lora_dropout 0.1 --lora_module_name "
            "query_key_value,dense_h_to_4h,dense_4h_to_h,dense",
            {
                "name": "lora",
                "rank": 16,
                "alpha": 64,
                "dropout": 0.1,
                "target_modules": ["query_key_value", "dense_h_to_4h", "dense_4h_to_h", "dense"],
            },
        ),
        (
            "--train_type ptuning --pre_seq_len 16 --prefix_projection True",
            {"name": "p_tuning_v2", "num_virtual_tokens": 16, "projection": True},
        ),
        ("--train_type all", {"name": "full"}),
    ],
)
def test_each_train_type_becomes_its_method(flags: str, method: dict[str, Any]) -> None:
    tree = yaml.safe_load(translated(f"{ENOUGH['ChatGLM-Finetuning']} {flags}").text)
    assert tree["method"] == method
    run_of(f"{ENOUGH['ChatGLM-Finetuning']} {flags}")


def test_what_a_command_leaves_out_is_the_old_tools_default() -> None:
    found = settings(ENOUGH["ChatGLM-Finetuning"])
    assert found["data.max_length"] == 1024
    assert found["data.max_source_length"] == 256
    assert found["train.micro_batch_size"] == 16
    assert found["train.learning_rate"] == 1e-3
    assert found["method.rank"] == 8
    assert found["method.alpha"] == 30
    assert found["model.family"] == "chatglm2"
    assert found["deepspeed.zero_stage"] == 2
    found = settings(ENOUGH["Alpaca-LoRA"])
    assert found["train.batch_size"] == 128
    assert found["train.warmup_steps"] == 100
    assert found["data.dev_rows"] == 2000
    assert found["method.alpha"] == 16
    assert found["method.target_modules"] == ["q_proj", "v_proj"]
    found = settings(ENOUGH["ChatGLM-Tuning"])
    assert found["method.alpha"] == 32
    assert found["train.learning_rate"] == 5e-5
    assert found["train.epochs"] == 3
    assert found["model.quantization"] == "int8"


@pytest.mark.parametrize("tool", list(ENOUGH))
def test_every_line_of_a_run_file_says_where_it_is_from(tool: str) -> None:
    text = translated(ENOUGH[tool]).text
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert all(re.search(r"  # .{5}", line) for line in lines)
    assert run_of(ENOUGH[tool]).run.name


def test_false_means_false_and_weight_decay_counts() -> None:
    command = f"{ENOUGH['ChatGLM-Finetuning']} --train_type ptuning"
    found = settings(f"{command} --prefix_projection False --weight_decay 0.01")
    assert found["method.projection"] is False
    assert found["train.weight_decay"] == 0.01


def test_a_flag_of_another_train_type_is_told_to_have_no_effect() -> None:
    text = translated(f"{FREEZE} --lora_dim 16").text
    assert "# --lora_dim is left aside: it counts only with --train_type lora" in text
    assert "rank" not in yaml.safe_load(text)["method"]


def test_one_worker_a_card_that_the_old_launcher_would_have_seen() -> None:
    assert settings(FREEZE, CUDA_VISIBLE_DEVICES="0,1,2,3")["run.num_workers"] == 4
    assert settings(FREEZE, CUDA_VISIBLE_DEVICES="0,1,2,3")["train.batch_size"] == 16
    assert settings(f"--num_gpus 2 {FREEZE}")["train.batch_size"] == 8
    assert settings(f"{ENOUGH['Alpaca-LoRA']} --nproc_per_node=4")["train.batch_size"] == 128


def test_a_start_by_torchrun_is_refused() -> None:
    with pytest.raises(ConfigError, match="--num_gpus 4"):
        translated(FREEZE, RANK="0", WORLD_SIZE="4")


def test_a_deepspeed_file_gives_stage_offload_precision_and_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    config = {
        "train_batch_size": 32,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "auto"},
            "reduce_bucket_size": 1000,
        },
        "bf16": {"enabled": True},
        "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
    }
    file.write_text(json.dumps(config), encoding="utf-8")
    found = settings(f"{ENOUGH['ChatGLM-Finetuning']} --ds_file {file}")
    assert found["model.precision"] == "bf16"
    assert found["train.max_grad_norm"] == 0.5
    assert found["deepspeed.zero_stage"] == 3
    assert found["deepspeed.offload_optimizer"] == "cpu"
    assert "deepspeed.offload_parameters" not in found
    assert found["deepspeed.config"] == {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 1000}
    }
    run = run_of(f"{ENOUGH['ChatGLM-Finetuning']} --ds_file {file}")
    assert run.deepspeed.zero_stage == 3


def test_a_deepspeed_file_that_is_not_there_is_refused_unless_the_tool_came_with_it() -> None:
    found = settings(f"{ENOUGH['ChatGLM-Finetuning']} --ds_file ds_zero3_offload.json")
    assert (found["deepspeed.zero_stage"], found["deepspeed.offload_parameters"]) == (3, "cpu")
    with pytest.raises(ConfigError, match=r"there is no mine\.json"):
        translated(f"{ENOUGH['ChatGLM-Finetuning']} --ds_file mine.json")


def test_the_three_commands_of_chatglm_tuning_are_one() -> None:
    run = run_of(
        "--jsonl_path data/alpaca_data.jsonl --max_seq_length 200 --skip_overlength True "
        "--lora_rank 8 --per_device_train_batch_size 6 --gradient_accumulation_steps 1 "
        "--max_steps 52000 --save_steps 1000 --save_total_limit 2 --learning_rate 1e-4 --fp16 "
        "--remove_unused_columns false --logging_steps 50 --output_dir output"
    )
    assert (run.train.max_steps, run.train.epochs) == (52000, None)
    assert (run.train.batch_size, run.train.eval_every_steps) == (6, 1000)
    assert (run.data.max_length, run.data.overlong) == (200, "skip")
    assert (run.model.precision, run.model.quantization) == ("fp16", "int8")
    assert (run.train.schedule, run.train.warmup_ratio) == ("linear", 0.0)


def test_rows_that_are_tokens_already_are_refused_with_what_to_give_instead() -> None:
    with pytest.raises(ConfigError, match="by --jsonl_path"):
        translated("--dataset_path data/alpaca --lora_rank 8")


def test_flags_are_read_as_fire_reads_them() -> None:
    found = settings(
        "--base_model=llama --data-path rows.json --lora_target_modules='[q_proj,k_proj]' "
        "--notrain_on_inputs --resume_from_checkpoint False --wandb_project ''"
    )
    assert found["method.target_modules"] == ["q_proj", "k_proj"]
    assert found["data.train_on_source"] is False


def test_all_faults_of_a_command_are_told_together_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        translated(f"{FREEZE} --lora_dims 8 --deepspeed_config x --num_train_epochs many")
    message = str(caught.value)
    assert "--lora_dims is no flag of ChatGLM-Finetuning's train.py: did you mean --lora_dim" in (
        message
    )
    assert "--deepspeed_config cannot be honoured" in message
    assert "--num_train_epochs: " in message


@pytest.mark.parametrize(
    ("command", "now"),
    [
        ("--ori_model_dir a --model_dir b --mode glm2", "raytune_glm.merge"),
        ("--load_8bit --base_model a --lora_weights b", "raytune_glm.chat"),
        ("--data_path a.json --save_path b.jsonl", "Alpaca's rows are read as they are"),
        ("--frobnicate 1", "a command must begin with a run file"),
    ],
)
def test_a_command_that_does_not_train_is_told_what_does_its_work(command: str, now: str) -> None:
    with pytest.raises(ConfigError, match=now):
        translated(command)


def test_settings_behind_an_old_command_have_the_last_word() -> None:
    run = run_of(f"{FREEZE} model.precision=bf16 --check run.name=mine")
    assert (run.model.precision, run.run.name) == ("bf16", "mine")
    assert translated(f"{FREEZE} --check").only_check


def test_a_run_file_is_no_old_command() -> None:
    assert not is_old_command(["run.yaml", "--check"])
    assert not is_old_command(["--check", "run.yaml"])
    assert not is_old_command(["--help"])
    assert is_old_command(["--check", "--train_path", "x"])
