"""The commands as a user runs them: exit status, one message, and nothing started or written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from raytune_glm.command import exit_status
from raytune_glm.config import load_sweep
from raytune_glm.report.settings import write_settings
from raytune_glm.trials.records import ResultsFolder
from tests.shipped import ROOT, ROWS


@pytest.fixture
def desk(tmp_path: Path, tiny_glm: Path) -> Path:
    """A working folder with a sweep file and broken things to name in overrides."""
    (tmp_path / "lora.yaml").write_text(
        f"""
model: {{path: {tiny_glm}}}
data:
  train: {ROWS / "train.jsonl"}
  dev: {ROWS / "dev.jsonl"}
  max_length: 192
  max_source_length: 128
method: {{name: lora, target_modules: all}}
train: {{max_steps: 120, batch_size: 16, micro_batch_size: 8, eval_every_steps: 40}}
search:
  num_trials: 8
  scheduler: {{name: asha, grace_period_steps: 40}}
  space:
    method.rank: {{choice: [4, 8]}}
run: {{name: try}}
""",
        encoding="utf-8",
    )
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text(
        '{"context": "a", "target": "b"}\n{"context": "a",\n', encoding="utf-8"
    )
    (tmp_path / "hollow").mkdir()
    return tmp_path


def run(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the sweep command in the folder, where it would also find its temporary files."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(desk),
        "RAY_TMPDIR": str(desk),
        "HOME": str(desk),
        "COLUMNS": "100",
    }
    return subprocess.run(
        [sys.executable, "-m", "raytune_glm.sweep", *arguments],
        cwd=desk,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def listed(desk: Path) -> list[Path]:
    return sorted(desk.rglob("*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_stepz=3", "train.max_stepz: there is no such key; did you mean max_steps?"),
        ("train.batch_size=many", "train.batch_size: must be a valid integer"),
        ("search.space.method.rnak={choice: [1]}", "search.space.method.rnak: there is no such"),
        ("search.space.train.batch_size={choice: [16, 6]}", "at method.rank=4, train.batch_size=6"),
        ("search.space.method.rank={int_range: [8, 2]}", "low < high, but got [8, 2]"),
        ("search.space.method.rank={int_range: [1, 4096]}", "method.rank must be at most"),
        ("method.target_modules=[q_proj]", "'q_proj' matches nothing in this chatglm3 model"),
        ("model.path=no/such/folder", "the model folder no/such/folder does not exist"),
        ("model.path=hollow", "a model folder must hold config.json"),
        ("data.train=missing.jsonl", "missing.jsonl: there is no such file or folder"),
        ("data.train=empty.jsonl", "empty.jsonl: the file is empty"),
        ("data.train=broken.jsonl", "broken.jsonl, line 2: broken JSON"),
        ("data.dev=null", "data.dev must be given"),
        ("train.eval_every_steps=null", "search.scheduler asha must see a report"),
        ("train.max_steps", "an override must be key.path=value, but got 'train.max_steps'"),
    ],
)
def test_bad_input_is_one_message_and_status_2_and_nothing_is_started(
    desk: Path, override: str, message: str
) -> None:
    before = listed(desk)
    done = run(desk, "lora.yaml", override)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert listed(desk) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.storage=empty.jsonl", "run.storage must be a folder that can be written, but "),
        ("search.storage=sqlite:///no/study.db", "No such file or directory: 'no': mkdir -p no"),
        ("search.warm_start=[old]", "there is no old/trials.jsonl: give the results folder of a s"),
    ],
)
def test_check_refuses_the_places_that_a_run_would_and_makes_none(
    desk: Path, override: str, message: str
) -> None:
    before = listed(desk)
    done = run(desk, "lora.yaml", "--check", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert listed(desk) == before


def test_a_missing_sweep_file_is_told_with_the_nearest_name(desk: Path) -> None:
    done = run(desk, "lore.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no sweep file lore.yaml: did you mean lora.yaml?\n"


def test_check_prints_the_arithmetic_and_creates_nothing(desk: Path) -> None:
    before = listed(desk)
    done = run(desk, "lora.yaml", "--check", "search.num_trials=3", "run.num_workers=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert listed(desk) == before
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["sweep"] == f"try, results in {desk / 'results' / 'try'}"
    assert f"data       train 2,400 rows of {ROWS / 'train.jsonl'}\n" in done.stdout
    assert lines["data"] == f"dev 100 rows of {ROWS / 'dev.jsonl'}"
    assert lines["trials"].startswith("3 by forecast and asha, for eval_loss")
    few, many = re.match(r"([\d,]+) to ([\d,]+) parameters", lines["trainable"]).groups()  # type: ignore[union-attr]
    assert 2 * int(few.replace(",", "")) == int(many.replace(",", ""))
    assert lines["step"].startswith("16 rows = 8 a pass x 1 passes x 2 worker(s), at most 3,072 t")
    assert lines["steps"] == "120 a trial"
    assert "lengths    train rows have up to " in done.stdout
    assert lines["resources"].startswith("2 worker(s) a trial, each 1 CPU")


def test_check_tells_where_rows_are_and_which_of_the_files_stay_beside_the_users(
    desk: Path,
) -> None:
    row = '{"context": "a", "target": "b"}\n'
    (desk / "mine.jsonl").write_text(row * 3, encoding="utf-8")
    done = run(desk, "lora.yaml", "--check", "data.train=mine.jsonl")
    assert "data       train 3 rows of mine.jsonl\n" in done.stdout
    note = "note       data.train is given on the command line, and data.dev still as in the file:"
    assert note in done.stdout
    own = run(
        desk, "lora.yaml", "--check", "data.train=mine.jsonl", "data.dev=null", "data.dev_rows=1"
    )
    assert "data       dev 1 rows drawn from data.train\n" in own.stdout
    assert "command line" not in own.stdout


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.execution=auto", "packed, trials share one base a device, and its passes"),
        (
            "run.pack_size=3",
            "packed, trials share one base a device, and its passes, at most 3 trials a host",
        ),
        (
            "search.space.train.packing={choice: [true, false]}",
            "packed, trials share one base a device, and its passes; for trials of "
            "train.packing=True, which need workers of their own, hosts close",
        ),
        (
            "run.execution=solo",
            "solo, each trial with workers of its own, since run.execution=solo asks for it",
        ),
        (
            "train.packing=true",
            "solo, each trial with workers of its own, since train.packing=True needs them",
        ),
        (
            "method.use_dora=true",
            "hosted, a base that stays loaded, a pass for each trial, since method.use_dora=true "
            "cannot share one",
        ),
        (
            "search.space.method.use_dora={choice: [true, false]}",
            "mixed, trials share one base a device, and some share its passes, since "
            "method.use_dora=true cannot share one",
        ),
    ],
)
def test_check_tells_how_trials_take_up_devices_and_why(
    desk: Path, override: str, told: str
) -> None:
    done = run(desk, "lora.yaml", "--check", override)
    assert f"execution  {told}\n" in done.stdout, done.stderr


def test_help_says_how_to_run_it(desk: Path) -> None:
    done = run(desk, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "key.path=value" in done.stdout
    assert "docs/sweep_file.md" in done.stdout
    assert "exit status: 0" in done.stdout


def test_there_are_no_options_beside_these(desk: Path) -> None:
    # What a sweep does is written in its file: an option is for the command alone.
    options = re.findall(r"^  (-.+?)(?:  .*)?$", run(desk, "--help").stdout, flags=re.MULTILINE)
    assert options == ["-h, --help", "--check"]


def test_an_option_that_does_not_exist_is_refused(desk: Path) -> None:
    done = run(desk, "lora.yaml", "--num-trials", "3")
    assert done.returncode == 2
    assert "--num-trials" in done.stderr


def test_a_reader_that_wants_no_more_ends_a_command_without_a_word(desk: Path) -> None:
    shutil.copy(ROOT / "sweeps/lora.yaml", desk / "sweep.yaml")
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "raytune_glm.ctl", str(desk), "status"],
            cwd=ROOT,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_to_another_process_that_breaks_is_not_taken_for_the_readers() -> None:
    def broken() -> int:
        raise BrokenPipeError("a worker is gone")

    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        exit_status(broken)


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_ends_a_command_as_ctrl_c_does_also_where_a_shell_has_that_ignored(
    on_ctrl_c: signal.Handlers, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, on_ctrl_c)

    def work() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    assert exit_status(work, interrupted="go on later") == 1
    assert capsys.readouterr().err == "go on later\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_check_refuses_a_folder_that_was_made_with_other_settings(desk: Path) -> None:
    lora = [str(ROOT / "sweeps/lora.yaml"), f"run.storage={desk}", "run.name=made"]
    sweep = load_sweep(Path(lora[0]), lora[1:])
    results = ResultsFolder(desk / "made")
    write_settings(results, sweep.model_dump(mode="json"))
    results.trials.touch()
    words = [sys.executable, "-m", "raytune_glm.sweep", *lora, "--check"]
    for changes, status in ([], 0), (["train.weight_decay=0.5"], 2):
        done = subprocess.run(
            [*words, *changes], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
    assert "train.weight_decay: " in done.stderr
    assert "choose another run.name" in done.stderr
