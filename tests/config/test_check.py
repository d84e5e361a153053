"""Holding a sweep against the model and the data on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raytune_glm.config import load_run, load_sweep
from raytune_glm.config.check import Plan, check_run, check_sweep
from raytune_glm.errors import ConfigError, DataError, ModelError, UserError
from tests.shipped import ROWS, data


@pytest.fixture
def file(tmp_path: Path, tiny_glm: Path) -> Path:
    sweep: dict[str, Any] = {
        "model": {"path": str(tiny_glm)},
        "data": data("train", "dev", max_length=192, max_source_length=128),
        "method": {"name": "lora", "rank": 8, "target_modules": "all"},
        "train": {"max_steps": 120, "eval_every_steps": 40},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def check(file: Path, *overrides: str) -> Plan:
    return check_sweep(load_sweep(file, overrides))


def refusal(file: Path, *overrides: str, kind: type[UserError] = ConfigError) -> str:
    with pytest.raises(kind) as raised:
        check(file, *overrides)
    return str(raised.value)


def adapted_sides(tiny_glm: Path) -> int:
    """Sum of in and out of all linears of a ChatGLM model, worked out from its published fields."""
    config = json.loads((tiny_glm / "config.json").read_text(encoding="utf-8"))
    hidden, ffn, kv = (config[key] for key in ("hidden_size", "ffn_hidden_size", "kv_channels"))
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    qkv = hidden + heads * kv + 2 * groups * kv
    dense = heads * kv + hidden
    up, down = hidden + 2 * ffn, ffn + hidden
    sides: int = config["num_layers"] * (qkv + dense + up + down)
    return sides


def test_the_figures_of_a_sweep_are_those_of_its_extreme_trials(file: Path, tiny_glm: Path) -> None:
    plan = check(
        file,
        "search.space.method.rank={choice: [4, 16, 8]}",
        "search.space.train.max_steps={int_range: [60, 240]}",
        "search.space.train.batch_size={choice: [8, 32]}",
    )
    sides = adapted_sides(tiny_glm)
    assert plan.trainable == (4 * sides, 16 * sides)
    assert plan.steps == (60, 240)
    assert plan.max_steps == 240
    assert plan.tokens_per_step == (8 * 192, 32 * 192)
    assert plan.rows == {"train": 2400, "dev": 100}


def test_steps_come_from_the_rows_where_epochs_are_given(file: Path) -> None:
    plan = check(file, "train.max_steps=null", "train.epochs=2", "data.max_train_rows=100")
    assert plan.steps == (13, 13)  # ceil(2 * 100 / 16)


def test_the_space_may_search_a_whole_method_with_settings_of_its_own(file: Path) -> None:
    plan = check(
        file,
        "search.space.method={one_of: {lora: {rank: {int_range: [2, 8], log: true}, "
        "target_modules: {choice: [attention, all]}}}}",
    )
    assert plan.trainable[0] < plan.trainable[1]


def test_rows_that_are_searched_count_for_the_steps(file: Path) -> None:
    plan = check(
        file,
        "train.max_steps=null",
        "train.epochs=1",
        "search.space.data.max_train_rows={choice: [64, 640]}",
    )
    assert plan.steps == (4, 40)


def test_rows_that_are_searched_must_be_there(file: Path) -> None:
    message = refusal(file, "search.space.data.train={choice: [missing.jsonl]}", kind=DataError)
    assert "missing.jsonl: there is no such file or folder" in message


# The search space.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("method.rnak", "search.space.method.rnak: there is no such setting .* method.rank"),
        ("learning_rate", "there is no such setting .* did you mean train.learning_rate"),
        ("qqqqqqqq", "search.space.qqqqqqqq: there is no such setting .* of its own$"),
        ("run.num_workers", "search.space.run.num_workers: run.num_workers is one for all trials"),
        ("model.path", "search.space.model.path: model.path is one for all trials"),
        ("data.dev_rows", "search.space.data.dev_rows: data.dev_rows is one for all trials"),
        ("data.test", "search.space.data.test: data.test is one for all trials"),
        ("search.num_trials", "search.space.search.num_trials: there is no such setting"),
    ],
)
def test_a_search_path_that_does_not_exist_is_refused(file: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(file, f"search.space.{path}={{choice: [1]}}")


def test_a_setting_of_a_variant_that_does_not_exist_is_refused(file: Path) -> None:
    message = refusal(file, "search.space.method={one_of: {lora: {rnak: {choice: [4]}}}}")
    assert message.startswith("search.space.method.rnak: there is no such setting")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method={one_of: {lorra: {}}}", "method has no such variant: did you mean lora?"),
        ("method.one_of.qqqq={}", "method has no such variant: the variants are lora, "),
        ("train={one_of: {lora: {}}}", "must have no one_of, since section train has no variants"),
    ],
)
def test_a_variant_that_does_not_exist_is_refused(file: Path, override: str, message: str) -> None:
    assert message in refusal(file, f"search.space.{override}")


def test_a_setting_beside_its_whole_section_would_have_no_effect(file: Path) -> None:
    message = refusal(
        file,
        "search.space.method.rank={choice: [4]}",
        "search.space.method={one_of: {lora: {}}}",
    )
    assert message == (
        "search.space.method.rank: must not stand beside search.space.method, which sets the whole "
        "section: search it inside that one, as search.space.method.one_of.lora.rank="
        "{choice: [4]}, and leave this one out (search.space.method.rank=null, where a file has it)"
    )


def test_a_null_for_what_is_no_setting_is_refused_in_a_mapping_too(file: Path) -> None:
    space = "search.space={method.rnk: null, method.alpha: null, train.seed: {choice: [1]}}"
    with pytest.raises(ConfigError, match=r"^search\.space\.method\.rnk: .* method\.rank\?$"):
        check(file, space)


def test_all_wrong_paths_are_told_at_once(file: Path) -> None:
    message = refusal(
        file, "search.space.a.b={choice: [1]}", "search.space.method.rnak={choice: [1]}"
    )
    assert len(message.splitlines()) == 2


def test_an_illegal_corner_is_named_once_however_many_it_is_part_of(file: Path) -> None:
    message = refusal(
        file,
        "search.space.train.batch_size={choice: [16, 6]}",
        "search.space.method.alpha={choice: [16, 32]}",
        "search.space.train.learning_rate={log_range: [1e-4, 1e-2]}",
    )
    assert message.startswith(
        "search.space: at train.batch_size=6, method.alpha=16, train.learning_rate=0.0001, the "
        "trial has 1 fault:"
    )
    assert message.count("train.batch_size must be a multiple of") == 1
    assert len(message.splitlines()) == 2


def test_a_corner_of_the_wrong_type_is_refused(file: Path) -> None:
    message = refusal(file, "search.space.method.rank={choice: [8, many]}")
    assert "at method.rank=many" in message
    assert "method.rank: must be a valid integer" in message
    message = refusal(file, "search.space.method.rank={choice: [8, null]}")
    assert "at method.rank=null" in message
    assert "must be a valid integer, but got null" in message


def test_a_corner_that_the_model_cannot_have_is_refused(file: Path) -> None:
    message = refusal(file, "search.space.method.rank={int_range: [2, 100000]}")
    assert message.startswith("method.rank must be at most ")
    assert "but got rank=100000" in message


# The method on the model.


def test_target_modules_that_match_nothing_are_refused(file: Path) -> None:
    message = refusal(file, "method.target_modules=[q_proj]")
    assert message == (
        "method.target_modules must name linears of the model, but 'q_proj' matches nothing in "
        "this chatglm3 model: its linears are dense, dense_4h_to_h, dense_h_to_4h, query_key_value"
    )


def test_an_empty_list_of_target_modules_is_refused(file: Path) -> None:
    assert "but the list is empty: choose from dense," in refusal(file, "method.target_modules=[]")


def test_rows_longer_than_the_model_can_read_are_refused(file: Path, tiny_glm: Path) -> None:
    longest = json.loads((tiny_glm / "config.json").read_text(encoding="utf-8"))["seq_length"]
    assert check(file, f"data.max_length={longest}").tokens_per_step == (16 * longest, 16 * longest)
    message = refusal(file, f"data.max_length={longest + 1}")
    assert message.startswith(f"data.max_length must be at most {longest}, the longest sequence")


def test_a_prompt_takes_its_tokens_from_the_longest_row_and_a_chatglm_prefix_does_not(
    file: Path, tiny_glm: Path
) -> None:
    longest = json.loads((tiny_glm / "config.json").read_text(encoding="utf-8"))["seq_length"]
    check(file, "method={name: p_tuning_v2}", f"data.max_length={longest}")
    check(file, "method={name: prompt_tuning}", f"data.max_length={longest - 16}")
    message = refusal(file, "method={name: prompt_tuning}", f"data.max_length={longest - 15}")
    assert f"must be at most {longest - 16}, the longest sequence of this model less the 16" in (
        message
    )


# The model on disk.


def test_a_missing_model_folder_is_refused(file: Path) -> None:
    message = refusal(file, "model.path=/no/such/model", kind=ModelError)
    assert message.startswith("the model folder /no/such/model does not exist")


def test_a_folder_that_is_no_model_is_refused(file: Path) -> None:
    message = refusal(file, f"model.path={ROWS}", kind=ModelError)
    assert message.startswith(f"a model folder must hold config.json, but {ROWS} has none")


# The data on disk.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file or folder"),
        ("", "the file is empty"),
        ("[]", "there is no row in it"),
        (
            '{"context": "a", "target": "b"}\n{"context": "c"\n',
            "rows.jsonl, line 2: broken JSON at column",
        ),
        (
            '{"context": "a", "target": "b"}\n\n{"text": "c"}\n',
            "rows.jsonl, line 3: ",
        ),
    ],
    ids=["missing", "empty", "no rows", "broken", "of no known format"],
)
def test_a_data_file_that_cannot_be_used_is_refused(
    file: Path, tmp_path: Path, content: str | None, message: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    if content is not None:
        rows.write_text(content, encoding="utf-8")
    found = refusal(file, f"data.train={rows}", kind=DataError)
    assert found.startswith(str(rows))
    assert message in found


def test_a_sweep_without_dev_rows_is_refused(file: Path) -> None:
    message = refusal(file, "data.dev=null")
    assert message.startswith("data.dev must be given, or data.dev_rows draw it from the training")


def test_dev_rows_may_be_drawn_from_the_training_rows(file: Path) -> None:
    plan = check(file, "data.dev=null", "data.dev_rows=70")
    assert plan.rows == {"train": 2330, "dev": 70}


def test_faults_of_model_data_and_search_are_told_at_once(file: Path) -> None:
    message = refusal(
        file,
        "model.path=/no/such/model",
        "data.train=/no/such/rows.jsonl",
        "search.space.method.rnak={choice: [1]}",
    )
    assert "method.rnak" in message
    assert "/no/such/model" in message
    assert "/no/such/rows.jsonl" in message


# The scheduler.

ASHA = "search.scheduler={name: asha, grace_period_steps: 40}"


def test_a_scheduler_that_sees_reports_in_time_is_taken(file: Path) -> None:
    assert check(file, ASHA).steps == (120, 120)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.eval_every_steps=null"],
        ["train.eval_every_steps=120"],
        ["train.max_steps=40"],
        # Reports at 50 and 100: the first one at or after step 60 is the last step's.
        ["train.eval_every_steps=50", "train.max_steps=100", ASHA.replace("40", "60")],
        ["search.space.train.max_steps={int_range: [40, 200]}"],
    ],
)
def test_a_scheduler_that_sees_no_report_in_time_is_refused(
    file: Path, overrides: list[str]
) -> None:
    message = refusal(file, ASHA, *overrides)
    assert message.startswith(
        "search.scheduler asha must see a report before a trial's last step, but got "
    )
    assert message.endswith("evaluate more often, decide earlier, or leave it out")


def test_a_population_is_decided_over_where_trials_are_evaluated(file: Path) -> None:
    search = ["search.space.train.learning_rate={log_range: [1e-4, 1e-2]}", "search.num_trials=4"]
    pbt = "search.scheduler={name: pbt, interval_steps: "
    check(file, *search, pbt + "80}")
    for steps in (50, 20):
        message = refusal(file, *search, f"{pbt}{steps}}}")
        assert f"but got interval_steps={steps} with train.eval_every_steps=40: write a" in message
        assert message.endswith(f"{80 if steps == 50 else 40} say, or evaluate more often")


def test_a_scheduler_is_told_with_the_setting_that_is_its_period(file: Path) -> None:
    message = refusal(file, ASHA.replace("40", "100"))
    assert "got train.eval_every_steps=40 and grace_period_steps=100 in trials of 120" in message


def test_rows_that_nobody_has_counted_give_a_scheduler_no_end(file: Path) -> None:
    overrides = [ASHA, "data.train=hub:owner/name", "train.max_steps=null", "train.epochs=2"]
    assert refusal(file, *overrides).startswith("train.max_steps must be given for search.sched")
    assert check(file, ASHA, "data.train=hub:owner/name").rows == {"dev": 100}


def write_config(folder: Path, tiny_glm: Path, **changes: object) -> Path:
    """Copy the shipped model with another config.json; weights are not looked into by a check."""
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "model.safetensors"):
        (folder / name).symlink_to(tiny_glm / name)
    config = json.loads((tiny_glm / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("method", "stored", "kind"),
    [
        ("{name: full}", {"quantization_bit": 4}, "int4"),
        ("{name: freeze, num_trainable_layers: 1}", {"quantization_bit": 8}, "int8"),
        (
            "{name: full}",
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "quant_method=bitsandbytes",
        ),
    ],
)
def test_a_method_that_trains_the_base_is_refused_for_a_checkpoint_stored_in_few_bits(
    file: Path, tiny_glm: Path, tmp_path: Path, method: str, stored: dict[str, Any], kind: str
) -> None:
    packed = f"model.path={write_config(tmp_path / 'packed', tiny_glm, **stored)}"
    assert check(file, packed).trainable[0] > 0
    name = method.partition("name: ")[2].rstrip("}").partition(",")[0]
    expected = f"weights are stored as {kind}, since those are not trained themselves, but got "
    assert expected + f"name={name}" in refusal(file, packed, f"method={method}")
    space = f"search.space.method={{one_of: {{lora: {{}}, {name}: {{}}}}}}"
    if name == "full":
        assert expected in refusal(file, packed, space)


def test_a_corner_whose_model_cannot_be_loaded_so_is_refused(
    file: Path, tiny_glm: Path, tmp_path: Path
) -> None:
    packed = f"model.path={write_config(tmp_path / 'packed', tiny_glm, quantization_bit=4)}"
    space = "search.space.model.quantization={choice: [null, nf4]}"
    assert "got quantization='nf4' for one of int4" in refusal(file, packed, space, kind=ModelError)
    flash = "search.space.model.attention={choice: [sdpa, flash_attention_2]}"
    message = refusal(file, flash, kind=ModelError)
    assert "must be bf16 or fp16 for attention=flash_attention_2" in message
    assert check(file, flash, "model.precision=bf16").precisions == {"bf16"}


def test_packing_is_refused_by_name_where_rows_could_not_be_kept_apart(file: Path) -> None:
    check(file, "train.packing=true")
    assert "train.packing must be false with method.name=p_tuning_v2, whose virtual" in refusal(
        file, "method={name: p_tuning_v2}", "train.packing=true"
    )
    flash = ("model.attention=flash_attention_2", "model.precision=bf16")
    assert "train.packing must be false with model.attention=flash" in refusal(
        file, *flash, "train.packing=true"
    )
    assert "`group_by_length` must be false where `packing` is true" in str(
        refusal(file, "train.packing=true", "train.group_by_length=true")
    )


def test_learning_rates_of_parts_that_do_not_train_are_refused(file: Path) -> None:
    check(file, "train.learning_rates={lora_B: 16x}")
    message = refusal(file, "train.learning_rates={lora_B: 16x, prefix_encoder: 1e-3}")
    assert "'prefix_encoder' picks nothing (left) of base_model.model.transformer.enc" in message


def test_a_module_to_train_beside_the_adapters_must_be_there_and_have_none(file: Path) -> None:
    plain = check(file).trainable[0]
    beside = check(file, "method.modules_to_save=final_layernorm").trainable[0]
    assert beside - plain == check(file).model.shape.hidden_size
    message = refusal(file, "method.modules_to_save=[lm_head]")
    assert "'lm_head' matches nothing in this chatglm3 model: outside its layers it has" in message
    assert "output_layer, word_embeddings" in message
    assert "must not hold transformer.encoder.layers.0.mlp.dense_h_to_4h, which is one" in refusal(
        file, "method.modules_to_save=[mlp]"
    )


def test_patience_without_evaluations_on_the_way_is_refused(file: Path) -> None:
    message = refusal(file, "train.patience=3", "train.eval_every_steps=null")
    assert "`patience` must have `eval_every_steps` beside it" in message


def test_a_budget_that_nobody_looks_at_before_the_end_is_refused(file: Path) -> None:
    budget = "search.budget={unit: device_seconds, per_trial: 60}"
    check(file, budget)
    message = refusal(file, budget, "train.eval_every_steps=null")
    assert "search.budget.per_trial must see a report before a trial's last step" in message


# Limits and known-good settings.


def test_a_limit_below_what_any_trial_trains_is_refused(file: Path, tiny_glm: Path) -> None:
    ranks = "search.space.method.rank={choice: [4, 8]}"
    least = 4 * adapted_sides(tiny_glm)
    remarks = check(file, ranks, f"search.limits.trainable_parameters={least}").remarks
    kept = f"is kept by a part of the space alone, which has {least:,} to {2 * least:,}"
    assert any(kept in remark for remark in remarks)
    message = refusal(file, ranks, f"search.limits.trainable_parameters={least - 1}")
    assert f"search.limits.trainable_parameters must be at least {least:,}, the least" in message
    check(file, "search.limits.triple_f1=-0.5")  # of a score nobody knows the least


def test_a_limit_that_no_trial_of_a_variant_can_meet_is_refused_with_the_variant(
    file: Path,
) -> None:
    total = check(file).model.shape.total_parameters
    methods = [
        "search.space.method={one_of: {lora: {rank: {choice: [4]}}, full: {}}}",
        f"search.limits.trainable_parameters={total - 1}",
    ]
    message = refusal(file, *methods)
    assert f"trainable_parameters must be at least {total:,}, the least that a trial of method" in (
        message
    )
    assert f"method full can have, or none of those can win, but got {total - 1:,}" in message
    assert "lora" not in message
    remedy = "search.space.method.one_of.full=null"
    assert f"leave full out by {remedy}, or raise the limit" in message
    check(file, *methods, remedy)


def test_a_limit_below_the_bases_own_weights_is_refused(file: Path) -> None:
    total = check(file).model.shape.total_parameters
    check(file, f"search.limits.peak_memory_bytes={4 * total}")
    check(file, f"search.limits.peak_memory_bytes={2 * total}", "model.precision=bf16")
    message = refusal(file, f"search.limits.peak_memory_bytes={2 * total}")
    assert f"search.limits.peak_memory_bytes must be at least {4 * total:,}, the least" in message


def test_forgetting_is_an_objective_only_where_there_is_something_to_retain(file: Path) -> None:
    wanted = 'search.objectives=["forgetting"]'
    assert refusal(file, wanted).startswith("data.retain must be given for forgetting")
    general = load_sweep(file).data.dev
    assert general is not None
    plan = check(file, wanted, f"data.retain={general[0]}", "data.max_retain_rows=5")
    assert plan.rows["retain"] == 5


def test_known_good_settings_must_make_a_legal_trial(file: Path) -> None:
    space = "search.space.train.learning_rate={log_range: [1e-4, 1e-2]}"
    check(file, space, "search.start_with=[{train.learning_rate: 1e-3}]")
    with pytest.raises(ConfigError, match=r"start_with.0: train.learning_rate: must be a number"):
        check(file, space, "search.start_with=[{train.learning_rate: 1}]")


def test_a_run_alone_needs_dev_rows_only_for_what_it_measures(file: Path) -> None:
    assert check_run(load_run(file, ["data.dev=null"])).rows == {"train": 2400}
    for override in ("train.metrics=[exact_match]", "search.metric=triple_f1"):
        with pytest.raises(ConfigError, match=r"data\.dev must be given"):
            check_run(load_run(file, ["data.dev=null", override]))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("train.learnin_rate", "did you mean train.learning_rate?"),
        ("model.pth", "model.path is one for all trials of a sweep and cannot be searched"),
    ],
)
def test_a_path_of_the_space_that_is_none_is_told_with_the_nearest(
    file: Path, path: str, hint: str
) -> None:
    assert hint in refusal(file, f"search.space.{path}={{choice: [1]}}")


def test_dev_rows_that_are_trained_on_and_fields_that_are_not_read_are_remarked(
    file: Path, tmp_path: Path
) -> None:
    rows = [
        {"context": "a", "target": "b", "history": [["c", "d"]]},
        {"context": "e", "target": ""},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plan = check(file, f"data.train={data}", f"data.dev={data}")
    assert "1 row(s) of data.train have the field `history`" in plan.remarks[0]
    assert any("1 of the 2 rows of data.train have an empty answer" in r for r in plan.remarks)
    assert "2 of the 2 rows of data.dev stand in data.train, too" in plan.remarks[-1]
    assert check(file).remarks == ()


def test_a_metric_that_finds_nothing_in_the_dev_answers_is_refused_before_anything_starts(
    file: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"context": "a", "target": "b"}\n' * 3, encoding="utf-8")
    message = refusal(file, f"data.dev={rows}", "search.metric=triple_f1", kind=DataError)
    assert "none of the dev answers has a line head_relation_tail" in message
    assert check(file, f"data.dev={rows}", "search.metric=exact_match").remarks == ()


def test_rows_on_which_a_silent_model_counts_as_right_are_remarked(
    file: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    answers = ("pump_has_leak", "none", "nothing")
    rows.write_text(
        "".join(json.dumps({"context": a, "target": a}) + "\n" for a in answers), encoding="utf-8"
    )
    [remark] = check(file, f"data.dev={rows}", "search.metric=triple_f1").remarks
    assert remark.startswith("2 of the 3 rows of data.dev have an answer without anything that")
    assert check(file, f"data.dev={rows}").remarks == ()


@pytest.mark.parametrize(
    ("overrides", "remark"),
    [
        (["search.num_trials=10"], "before it has seen num_startup_trials=10 trials, so all 10"),
        (["search.sampler={name: nsga2}", "search.num_trials=9"], "has seen population=16 trials"),
        (["search.sampler={name: forecast, num_startup_trials: 4}", "search.num_trials=10"], None),
        (["search.sampler=random"], None),
        (["search.sampler=random", "search.num_trials=3", "search.confirm={top: 3}"], None),
        (
            ["search.sampler=random", "search.num_trials=2", "search.confirm={top: 3}"],
            "search.confirm trains the best 3 trials again, but there are 2, so that all are",
        ),
        (
            ["search.sampler=random", "search.num_trials=3", "search.confirm={top: 1}"],
            "search.confirm.top=1 repeats the best trial alone, with none to compare it with",
        ),
        (
            ["search.sampler=random", "search.num_trials=3", "search.confirm={seeds: 2}"],
            "search.confirm.seeds=2 gives intervals that tell next to nothing",
        ),
        (["search.sampler=random", "search.num_trials=3", "search.confirm={seeds: 3}"], None),
        (
            ["search.sampler=random", "search.budget.per_trial=121"],
            "search.budget.per_trial=121 steps end no trial, since the longest has 120",
        ),
        (["search.sampler=random", "search.budget.per_trial=80"], None),
        (
            [
                *("search.sampler=random", "search.num_trials=8", "search.max_concurrent=4"),
                "search.scheduler={name: pbt, interval_steps: 40}",
            ],
            "compares the 4 trials of search.max_concurrent that run side by side, not all 8",
        ),
    ],
)
def test_a_search_that_does_otherwise_than_its_parts_promise_is_remarked(
    file: Path, overrides: list[str], remark: str | None
) -> None:
    space = "search.space.train.learning_rate={log_range: [1e-4, 1e-2]}"
    remarks = check(file, space, *overrides).remarks
    assert len(remarks) == (remark is not None)
    assert remark is None or remark in remarks[0]


def test_a_stage_of_zero_that_no_trial_has_is_remarked(file: Path) -> None:
    [remark] = check(file, "deepspeed.zero_stage=2").remarks
    assert "deepspeed.zero_stage=2 has no effect on pack hosts" in remark
    remarks = check(file, "search.space.deepspeed.zero_stage={choice: [0, 1]}").remarks
    assert any("deepspeed.zero_stage, which is searched, has no effect" in it for it in remarks)
    assert check(file, "deepspeed.zero_stage=2", "run.execution=solo").remarks == ()


def test_a_pack_size_for_trials_that_share_nothing_is_remarked(file: Path) -> None:
    [remark] = check(file, "run.pack_size=3", "run.execution=solo").remarks
    assert "run.pack_size=3 has no effect, as run.execution=solo gives" in remark
    [remark] = check(file, "run.pack_size=3", "run.num_workers=2").remarks
    assert "as run.num_workers=2 gives each trial workers of its own" in remark
    assert check(file, "run.pack_size=3").remarks == ()


def test_several_trials_without_anything_to_search_are_remarked(file: Path) -> None:
    [remark] = check(file, "search.num_trials=3").remarks
    assert remark.startswith("search.space is empty, so that all 3 trials are the same: search a")
    assert check(file, "search.num_trials=1").remarks == ()
    # A run of that file has one trial whatever it says.
    assert check_run(load_run(file, ["search.num_trials=3"])).remarks == ()


def test_faults_of_batch_sizes_and_of_packs_are_told_together(file: Path) -> None:
    message = refusal(
        file,
        "search.space.train.batch_size={choice: [16, 10]}",
        *("train.micro_batch_size=8", "run.execution=packed", "method.use_dora=true"),
    )
    assert "at train.batch_size=10" in message
    assert "run.execution must not be packed" in message


@pytest.mark.parametrize(
    ("overrides", "execution", "off_hosts"),
    [
        (["search.space.train.packing={choice: [true, false]}"], "packed", "train.packing=True"),
        (
            ["search.space.train.packing={choice: [true, false]}", "method.use_dora=true"],
            "hosted",
            "train.packing=True",
        ),
        (["train.packing=true"], "solo", None),
        (["run.execution=solo"], "solo", None),
    ],
)
def test_trials_that_no_host_takes_leave_the_others_packed(
    file: Path, overrides: list[str], execution: str, off_hosts: str | None
) -> None:
    plan = check(file, *overrides)
    assert (plan.execution, plan.off_hosts) == (execution, off_hosts)
