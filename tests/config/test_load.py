"""Reading a sweep file: what it takes, what overrides do, and how each fault is worded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from raytune_glm.config import load_run, load_sweep, run_of, trial_run
from raytune_glm.errors import ConfigError
from raytune_glm.space import Choice

SWEEP: dict[str, Any] = {
    "model": {"path": "models/glm"},
    "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
    "method": {"name": "lora", "rank": 8},
    "train": {"max_steps": 20},
    "search": {"space": {"method.rank": {"choice": [4, 8]}}},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, yaml.safe_dump(SWEEP))


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_without_overrides_is_what_it_says(file: Path) -> None:
    sweep = load_sweep(file)
    assert (sweep.method.rank, sweep.train.max_steps, sweep.model.path) == (8, 20, "models/glm")
    assert sweep.search.space == {"method.rank": Choice(choice=(4, 8))}


def test_nothing_of_a_configuration_can_be_changed(file: Path) -> None:
    sweep = load_sweep(file)
    with pytest.raises(ValidationError, match="frozen"):
        sweep.train.max_steps = 3
    with pytest.raises(ValidationError, match="frozen"):
        sweep.method.rank = 3


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", "1.e-4"])
def test_a_number_with_an_exponent_is_a_number(file: Path, number: str) -> None:
    space = load_sweep(file, [f"search.space.train.seed={{choice: [{number}]}}"]).search.space
    assert space["train.seed"] == Choice(choice=(1e-4,))
    assert load_sweep(file, [f"train.learning_rate={number}"]).train.learning_rate == 1e-4


def test_anchors_and_merge_keys_work_as_in_any_yaml(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in SWEEP.items() if key != "search"})
    text += (
        "search:\n  space:\n    method.rank: &four {choice: [4, 5, 6, 7]}\n    train.seed: *four\n"
        "    method.alpha: {<<: *four}\n    train.betas: {<<: *four, choice: [[0.9, 0.99]]}\n"
    )
    space = load_sweep(written(tmp_path, text)).search.space
    assert space["train.seed"] == space["method.alpha"] == Choice(choice=(4, 5, 6, 7))
    assert space["train.betas"] == Choice(choice=([0.9, 0.99],))


# Overrides.


def test_an_override_reaches_a_nested_setting_and_a_section_that_is_not_there(file: Path) -> None:
    sweep = load_sweep(file, ["method.dropout=0.1", "deepspeed.zero_stage=2"])
    assert (sweep.method.dropout, sweep.deepspeed.zero_stage) == (0.1, 2)


def test_a_later_override_wins(file: Path) -> None:
    assert load_sweep(file, ["train.seed=16", "train.seed=32"]).train.seed == 32


def test_a_value_may_be_a_list_a_mapping_or_hold_an_equals_sign(file: Path) -> None:
    sweep = load_sweep(
        file,
        [
            "method.target_modules=[query_key_value, dense]",
            "search.sampler={name: random, seed: 3}",
            "model.path=a=b",
        ],
    )
    assert sweep.method.target_modules == ("query_key_value", "dense")
    assert (sweep.search.sampler.name, sweep.search.sampler.seed) == ("random", 3)
    assert sweep.model.path == "a=b"


def test_null_takes_a_setting_back(file: Path) -> None:
    train = load_sweep(file, ["train.epochs=2", "train.max_steps=null"]).train
    assert (train.epochs, train.max_steps) == (2, None)


def test_the_keys_of_the_search_space_keep_their_dots(file: Path) -> None:
    sweep = load_sweep(file, ["search.space.train.seed={choice: [1, 2]}"])
    assert list(sweep.search.space) == ["method.rank", "train.seed"]


def test_null_takes_a_setting_out_of_the_search(file: Path) -> None:
    assert load_sweep(file, ["search.space.method.rank=null"]).search.space == {}


METHODS = "search.space={method: {one_of: {lora: {rank: {choice: [4, 8]}}, freeze: {}, full: {}}}}"


def test_variants_and_their_settings_are_reached_by_their_paths(file: Path) -> None:
    overrides = [
        METHODS,
        "search.space.method.one_of.full=null",
        "search.space.method.one_of.lora.rank=null",
        "search.space.method.one_of.lora.alpha={choice: [16]}",
        "search.space.method.one_of.prompt_tuning={}",
    ]
    found = load_sweep(file, overrides).search.space["method"]
    assert found.model_dump(exclude_defaults=True) == {
        "one_of": {"lora": {"alpha": {"choice": (16,)}}, "freeze": {}, "prompt_tuning": {}}
    }


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("search.space.method.rank.choice=[1, 2]", {"method.rank": {"choice": (1, 2)}}),
        ("search.space.method.rank.int_range=[1, 9]", {"method.rank": {"int_range": (1, 9)}}),
        (
            "search.space.train.learning_rate.log_range=[1e-4, 1e-2]",
            {
                "method.rank": {"choice": (4, 8)},
                "train.learning_rate": {"log_range": (1e-4, 1e-2)},
            },
        ),
    ],
)
def test_the_values_of_a_searched_setting_may_be_reached_by_a_dot_too(
    file: Path, override: str, found: dict[str, Any]
) -> None:
    space = load_sweep(file, [override]).search.space
    assert {path: d.model_dump(exclude_defaults=True) for path, d in space.items()} == found


def test_other_bounds_by_a_dot_leave_the_rest_of_a_dimension_and_its_neighbours(file: Path) -> None:
    first = "search.space.method={one_of: {lora: {rank: {int_range: [2, 8], log: true}}, full: {}}}"
    overrides = [
        "search.space.method.rank=null",
        first,
        "search.space.method.one_of.lora.rank.int_range=[2, 64]",
        "search.space.method.one_of.lora.alpha.choice=[16, 32]",
    ]
    found = load_sweep(file, overrides).search.space["method"].model_dump(exclude_defaults=True)
    assert found == {
        "one_of": {
            "lora": {"rank": {"int_range": (2, 64), "log": True}, "alpha": {"choice": (16, 32)}},
            "full": {},
        }
    }


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["search.space.method.rnk=null"], "did you mean search.space.method.rank=null?"),
        (["search.space.qqqqqq=null"], "it has method.rank"),
        (["search.space={}", "search.space.method.rank=null"], "the space is empty"),
        (["search=null", "search.space.method.rank=null"], "the space is empty"),
        (
            [METHODS, "search.space.method.one_of.ful=null"],
            "did you mean search.space.method.one_of.full=null?",
        ),
        (
            [METHODS, "search.space.method.one_of.lora.rnk=null"],
            "did you mean search.space.method.one_of.lora.rank=null?",
        ),
    ],
)
def test_a_null_that_takes_nothing_out_is_refused(
    file: Path, overrides: list[str], hint: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(file, overrides)
    path = overrides[-1].removesuffix("=null")
    assert str(raised.value) == (
        f"{path} must be in the search space for a null to take it out, but is not: {hint}"
    )


def test_one_target_module_needs_no_list(file: Path) -> None:
    sweep = load_sweep(file, ["method.target_modules=query_key_value"])
    assert sweep.method.target_modules == ("query_key_value",)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("rank", "an override must be key.path=value, but got 'rank'"),
        ("=8", "an override must be key.path=value, but got '=8'"),
        ("method.rank=[", r"the value of the override 'method.rank=\[' is not YAML"),
        ("method.rank.x=3", "method.rank.x cannot be set: method.rank is 8, not a section"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(
    file: Path, override: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_sweep(file, [override])


# Paths.


def test_relative_paths_that_exist_are_held_against_the_current_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "glm").mkdir(parents=True)
    (tmp_path / "train.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep(file, ["data.test=[hub:owner/name, train.jsonl]", "run.storage=out"])
    assert sweep.model.path == str(tmp_path / "models" / "glm")
    assert sweep.data.train == (str(tmp_path / "train.jsonl"),)
    assert sweep.data.dev == ("dev.jsonl",)
    assert sweep.data.test == ("hub:owner/name", str(tmp_path / "train.jsonl"))
    assert sweep.run.folder == tmp_path / "out" / "sweep"


def test_relative_paths_of_a_trial_are_held_against_the_current_folder_too(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    run = trial_run(run_of(load_sweep(file)), {"data.train": "other.jsonl"})
    assert run.data.train == (str(tmp_path / "other.jsonl"),)


# Faults of the file.


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path: Path, file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no sweep file .*sweeps.yaml: did you mean .*sweep.yaml\?"
    ):
        load_sweep(tmp_path / "sweeps.yaml")
    with pytest.raises(ConfigError, match=r"there is no sweep file .*quite_other$"):
        load_sweep(tmp_path / "quite_other")


def test_a_folder_is_no_sweep_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_sweep(tmp_path)


def test_a_file_that_is_no_text_is_no_sweep_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must hold a mapping with the sections of a sweep, but got null"),
        ("- model", r"must hold a mapping with the sections of a sweep, but got \['model'\]"),
        ("model: [", "is not YAML: while parsing"),
        ("a: 1\nb: 2\na: 3", r"(?s)the key 'a' is written twice.*line 3"),
        ("model:\n  path: x\n  path: y", r"(?s)the key 'path' is written twice.*line 3"),
        ("? [a]\n: 1", "(?s)is not YAML.*unhashable key"),
        ("model: 2024-13-01", "is not YAML: month must be in 1..12"),
        ("model: !!python/name:os.system x", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_sweep(written(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.max_stepz=3", "train.max_stepz: there is no such key; did you mean max_steps?"),
        ("trian.max_steps=3", "trian: there is no such key; did you mean train?"),
        ("deepspeed.qqqq=1", "deepspeed.qqqq: there is no such key; the keys here are zero_stage"),
        (
            "search.sampler={name: tpe, num_startup: 3}",
            "search.sampler.num_startup: there is no such key; did you mean num_startup_trials?",
        ),
        (
            "search.sampler={name: tp}",
            "search.sampler: 'name' must be one of 'forecast', 'tpe', 'bohb', 'cmaes', ",
        ),
        (
            "search.sampler={seed: 1}",
            "search.sampler: must have the key 'name': write one of forecast, tpe, ",
        ),
        (
            "search.scheduler={name: asha}",
            "search.scheduler: exactly one of `grace_period_steps` and `grace_period_device_sec",
        ),
        ("train.batch_size=abc", "train.batch_size: must be a valid integer, but got 'abc'"),
        ("train.batch_size=1.5", "train.batch_size: must be a valid integer, but got 1.5"),
        ("train.max_steps=yes", "train.max_steps: must be a number, but got True"),
        ("train.gradient_checkpointing=7", "train.gradient_checkpointing: must be a valid boolean"),
        ("train.learning_rate=0", "train.learning_rate: must be greater than 0, but got 0"),
        ("train.learning_rate=.nan", "train.learning_rate: must be a finite number, but got nan"),
        ("train.weight_decay=.inf", "train.weight_decay: must be a finite number, but got inf"),
        ("train.betas=[0.9]", "train.betas.1: must be given, and is not there"),
        (
            "train.schedule=cosin",
            "train.schedule: must be 'linear', 'cosine', 'constant' or 'warmup_decay', but",
        ),
        ("train=3", "train: must be a section with keys of its own, but got 3"),
        ("method=3", "method: must be a section with keys of its own, but got 3"),
        (
            "method.rank=0",
            "method.rank: must be greater than or equal to 1, but got 0: leave it out for the "
            "default, 8",
        ),
        (
            "method.target_modules=5",
            "method.target_modules: must be attention, mlp, all or a list of names, but got 5",
        ),
        ("model.path=", "model.path: must be text, but got null"),
        ("model.family=glm9", "model.family: must be one of chatglm3, "),
        ("search.space=[]", "search.space: must be a mapping, but got []: write {} for an empty"),
        ("search.space=null", "search.space: must be a mapping, but got null: write {} for an emp"),
        (
            "search.limits={trainable_parameters:150000}",
            "search.limits.trainable_parameters:150000: YAML ends a key at a colon with a space "
            "behind it: write trainable_parameters: 150000",
        ),
        (
            "search.limits={forgetting:0.1}",
            "search.limits.forgetting:0.1: YAML ends a key at a colon with a space behind it: "
            "write forgetting: 0.1",
        ),
        ("search.confirm={top:3}", "search.confirm.top:3: YAML ends a key at a colon with a space"),
        ("search.space.method.rank=8", "search.space.method.rank: a dimension must be a mapping"),
        ("search.space.method.rank=8", "{range: [low, high]} for all between two, or, to search"),
        (
            "search.space.method={one_of: {lora: {}, full: null}}",
            "search.space.method.one_of.full: must be a mapping, but got null: write {} for an",
        ),
        (
            "search.sampler=null",
            "search.sampler: must be a section with keys of its own, but got null: write one of "
            "forecast, tpe, ",
        ),
        (
            "search.confirm=3",
            "search.confirm: must be a section with keys of its own, but got 3: write "
            "search.confirm={top: 3, seeds: 5}, say",
        ),
        (
            "search.scheduler=pbt",
            "search.scheduler.interval_steps: must be given, and is not there: add "
            "search.scheduler.interval_steps=40, say",
        ),
        (
            "search.limits.peak_memory_bytes=24GB",
            "search.limits.peak_memory_bytes: must be a number, but got '24GB': write it without a "
            "unit, 24e9 or 1e-4 say",
        ),
        (
            "search.space.method.rank={int_range: [8, 2]}",
            "search.space.method.rank: `int_range` must be [low, high] with low < high, but got "
            "[8, 2]",
        ),
        (
            "search.space.method={one_of: {lora: {rank: {choice: []}}}}",
            "search.space.method.one_of.lora.rank.choice: must have at least 1 item, but got []",
        ),
        ("run.name=../x", "run.name: must match pattern"),
        ("data.train=[]", "data.train: must have at least 1 item"),
        ("data.max_length=1024", "data: `max_source_length` must be below `max_length`"),
        (
            "train.epochs=2",
            "train: exactly one of `max_steps` and `epochs` must be given, but got max_steps=20, "
            "epochs=2.0",
        ),
        (
            "train.max_steps=null",
            "train: exactly one of `max_steps` and `epochs` must be given, but got "
            "max_steps=null, epochs=null",
        ),
        (
            "train.batch_size=6",
            "train.batch_size must be a multiple of train.micro_batch_size x run.num_workers, but "
            "got batch_size=6 with 4 x 1 = 4: lower train.micro_batch_size, or change "
            "train.batch_size or run.num_workers",
        ),
        ("run.num_workers=3", "but got batch_size=16 with 4 x 3 = 12"),
        ("search.metric=f1", "search.metric must be one of eval_loss, triple_f1, exact_match, but"),
        ("train.metrics=[f1]", "train.metrics must be one of eval_loss, triple_f1, exact_match"),
    ],
)
def test_a_fault_is_one_line_with_its_path_rule_and_value(
    file: Path, override: str, line: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(file, [override])
    head, *lines = str(raised.value).splitlines()
    assert head == f"{file} with the command line's settings has 1 fault:"
    assert len(lines) == 1
    assert line in lines[0]


@pytest.mark.parametrize("method", ["{name: full}", "{name: freeze, num_trainable_layers: 1}"])
def test_a_quantized_base_cannot_train_itself(file: Path, method: str) -> None:
    load_sweep(file, ["model.quantization=int8"])
    with pytest.raises(ConfigError, match="must be left out where the base itself trains, but got"):
        load_sweep(file, [f"method={method}", "model.quantization=int8"])


def test_zero_3_cannot_spread_a_quantized_base(file: Path) -> None:
    with pytest.raises(ConfigError, match="zero_stage must be at most 2 with a quantized base"):
        load_sweep(file, ["deepspeed.zero_stage=3", "model.quantization=nf4"])


def test_all_faults_are_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(file, ["method.rnak=4", "train.seed=x", "search.num_trials=0", "run.nam=y"])
    head, *lines = str(raised.value).splitlines()
    assert head.endswith("has 4 faults:")
    places = [line.strip().partition(":")[0] for line in lines]
    assert sorted(places) == ["method.rnak", "run.nam", "search.num_trials", "train.seed"]


def test_a_setting_without_its_section_is_told_with_it(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"learning_rate: .* did you mean train\.learning_rate\?"):
        load_sweep(file, ["learning_rate=1e-4"])


def test_a_file_in_the_wrong_folder_is_told_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "cluster.yaml").touch()
    there = written(tmp_path / "sweeps", yaml.safe_dump(SWEEP))
    with pytest.raises(ConfigError, match=rf"did you mean {there}\?"):
        load_sweep(tmp_path / "sweep.yaml")


def test_rules_of_a_section_are_told_on_a_line_each_and_counted(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(
            file,
            [
                *("search.sampler=cmaes", "search.objectives=[seconds]"),
                "search.start_with=[{rank: 4}, {method.rank: 5}]",
            ],
        )
    head, *lines = str(raised.value).splitlines()
    assert head.endswith("has 5 faults:")
    assert [line.split()[0] for line in lines] == [
        *("search.sampler", "search.sampler", "search.start_with.0:", "search.start_with.1:"),
        "search.num_trials",
    ]


def test_rules_between_sections_are_told_with_one_another(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(
            file,
            [
                *("train.batch_size=10", "train.micro_batch_size=4", "train.metrics=[bleu]"),
                *("deepspeed.zero_stage=3", "model.quantization=nf4", "search.metric=rouge"),
            ],
        )
    head, *lines = str(raised.value).splitlines()
    assert head.endswith("has 4 faults:")
    assert [line.split()[0] for line in lines] == [
        *("train.metrics", "train.batch_size", "deepspeed.zero_stage", "search.metric")
    ]


def test_missing_sections_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_sweep(written(tmp_path, "method: {name: lora}\n"))
    for section in ("model", "data", "train"):
        assert f"  {section}: must be given, and is not there" in str(raised.value)


# A trial's run.


def test_a_trials_values_replace_the_files(file: Path) -> None:
    base = run_of(load_sweep(file))
    run = trial_run(base, {"method.rank": 4, "train.learning_rate": 3e-4})
    assert (run.method.rank, run.train.learning_rate) == (4, 3e-4)
    assert run.model_copy(update={"method": base.method, "train": base.train}) == base


def test_a_chosen_variant_replaces_the_section_and_forgets_its_settings(file: Path) -> None:
    base = run_of(load_sweep(file, ["method.dropout=0.5"]))
    run = trial_run(base, {"method": {"name": "lora"}, "method.alpha": 16})
    assert (run.method.dropout, run.method.rank, run.method.alpha) == (0.0, 8, 16)


def test_a_trials_illegal_values_are_refused(file: Path) -> None:
    base = run_of(load_sweep(file))
    with pytest.raises(ConfigError, match=r"the trial has 1 fault:\n  method.rank: must be"):
        trial_run(base, {"method.rank": 0})


def test_accumulation_is_what_is_left_of_the_batch(file: Path) -> None:
    overrides = ["train.batch_size=24", "train.micro_batch_size=4", "run.num_workers=2"]
    assert load_sweep(file, overrides).gradient_accumulation_steps == 3


# Run files


def test_a_run_file_is_a_sweep_file_that_searches_nothing(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"searches method\.rank: add search\.space=\{\}"):
        load_run(file)
    run = load_run(file, ["search.space={}", "search.metric=exact_match"])
    assert (run.method.rank, run.search.metric, run.run.name) == (8, "exact_match", "run")
    assert load_run(file, ["search.space={}", "run.name=mine"]).run.name == "mine"


def test_a_missing_run_file_is_told_with_the_nearest_name(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run file .*sweap\.yaml: did you mean .*sweep\.yaml"):
        load_run(file.with_name("sweap.yaml"))


# Names that stand alone, and settings of another variant


def test_a_name_alone_stands_for_a_section_with_its_defaults(file: Path) -> None:
    sweep = load_sweep(file, ["search.sampler=random", "search.scheduler=fifo", "method=full"])
    assert (sweep.search.sampler.name, sweep.search.scheduler.name) == ("random", "fifo")
    assert sweep.method.model_dump() == {"name": "full"}


def test_a_setting_of_another_method_is_told_whose_it_is(file: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"method\.rank: is a setting of lora, not of freeze: .* by method=freeze",
    ):
        load_sweep(file, ["method.name=freeze"])
    freeze = load_sweep(file, ["method=freeze", "method.num_trainable_layers=2"]).method
    assert (freeze.name, freeze.num_trainable_layers) == ("freeze", 2)


def test_warmup_steps_take_the_place_of_the_ratio(file: Path) -> None:
    train = load_sweep(file, ["train.warmup_steps=5"]).train
    assert train.warmup_share(20) == 0.25
    assert train.warmup_share(3) == 1.0
    assert load_sweep(file).train.warmup_share(20) == 0.1


def test_a_value_for_what_is_searched_is_refused_where_the_command_gives_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "model: {path: m}\n"
        "data: {train: t.jsonl, dev: d.jsonl}\n"
        "method: {name: lora, rank: 4}\n"
        "train: {max_steps: 8}\n"
        "search: {space: {method.rank: {choice: [4, 8]}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"add search\.space\.method\.rank=null to fix it"):
        load_sweep(file, ["method.rank=16"])
    fixed = load_sweep(file, ["method.rank=16", "search.space.method.rank=null"])
    assert fixed.method.rank == 16  # type: ignore[union-attr]
    assert not fixed.search.space
