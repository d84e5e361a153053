"""The replaced tools' other scripts: the flags that tell them, and what to run in their place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OtherScript:
    """A script of a replaced tool that did not train."""

    script: str
    flags: frozenset[str]
    now: str
    """What does its work now. RESULTS is a results folder of a run or a sweep."""


OTHER_SCRIPTS: tuple[OtherScript, ...] = (
    OtherScript(
        script="merge_lora.py",
        flags=frozenset({"ori_model_dir", "model_dir", "mode"}),
        now="python -m raytune_glm.merge RESULTS NEW_FOLDER",
    ),
    OtherScript(
        script="export_hf_checkpoint.py",
        flags=frozenset(),
        now="python -m raytune_glm.merge RESULTS NEW_FOLDER --max-shard-size 400MB",
    ),
    OtherScript(
        script="export_state_dict_checkpoint.py",
        flags=frozenset(),
        now="python -m raytune_glm.merge RESULTS NEW_FOLDER --format state_dict",
    ),
    OtherScript(
        script="predict.py",
        flags=frozenset(
            {"device", "model_path", "max_length", "do_sample", "top_p", "temperature", "mode"}
        ),
        now="python -m raytune_glm.predict RESULTS rows.jsonl answers.jsonl",
    ),
    OtherScript(
        script="generate.py",
        flags=frozenset(
            {
                *("load_8bit", "base_model", "lora_weights", "prompt_template", "server_name"),
                "share_gradio",
            }
        ),
        now="python -m raytune_glm.chat RESULTS",
    ),
    OtherScript(
        script="cli_demo.py",
        flags=frozenset(),
        now="python -m raytune_glm.chat RESULTS, where clear and stop mean what they did",
    ),
    OtherScript(
        script="cover_alpaca2jsonl.py",
        flags=frozenset({"data_path", "save_path"}),
        now="data.train=alpaca_data.json: Alpaca's rows are read as they are",
    ),
    OtherScript(
        script="bootstrap_instructions.py",
        flags=frozenset(
            {"batch_dir", "num_instructions_to_generate", "seed_tasks_path", "engine", "api_key"}
        ),
        now="self-instruct itself; this project reads the rows that it writes",
    ),
)
"""Flags of a script that trains, too, tell it only where a command has more of these."""
