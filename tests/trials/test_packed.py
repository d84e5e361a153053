"""A packed trial as Ray Tune drives it, without Ray: its process serves one trial after another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_glm import files
from raytune_glm.trials.packed import PackedTrial
from tests.packing.host import KEY, Host, reports


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with room for one trial."""
    found = Host(tmp_path, pack_size=1)
    files.write_json(tmp_path / "door.json", {"address": found.address})
    yield found
    found.close()


def config(host: Host, name: str, *, from_step: int = 0, **train: Any) -> dict[str, Any]:
    overrides = {f"train.{setting}": value for setting, value in train.items()}
    return {
        "door": str(host.folder("door.json")),
        "key": KEY,
        "attach": host.asked(name, overrides),
        "visit": name,
        "from_step": from_step,
    }


def test_a_stopped_trial_trains_no_further_and_the_next_one_hears_nothing_of_it(
    host: Host,
) -> None:
    """Ray Tune tells the process of a stopped trial nothing until it has another for it."""
    trial = PackedTrial(config(host, "stopped", max_steps=10**6, eval_every_steps=1))
    assert [trial.step()["step"] for _ in range(2)] == [1, 2]
    host.dismiss("stopped")
    assert [report["step"] for report in reports(host.attach("behind"), 2)] == [3, 6]
    lost = (host.folder("stopped") / "worker.log").read_text(encoding="utf-8").splitlines()[-1]
    assert "left the pack" in lost
    trial.reset(config(host, "next"))
    told = [trial.step() for _ in range(2)]
    assert [report["step"] for report in told] == [3, 6]
    assert [report["done"] for report in told] == [False, True]
    trial.stop()


def test_a_trial_whose_host_is_gone_for_good_goes_on_with_the_host_that_took_over(
    host: Host, tmp_path: Path
) -> None:
    told = reports(host.attach("trial"), 1)
    host.dismiss(host.visits["trial"])
    gone = tmp_path / "gone.json"
    files.write_json(gone, {"moved": str(tmp_path / "door.json")})
    trial = PackedTrial({**config(host, "trial"), "door": str(gone)})
    assert [trial.step()["step"] for _ in range(2)] == [3, 6]
    lines = (host.folder("trial") / "worker.log").read_text(encoding="utf-8")
    assert f"of a pack at step {told[0]['step']} of 6" in lines
    trial.stop()


def test_a_copy_of_a_trial_at_its_end_is_done_at_once(host: Host) -> None:
    reports(host.attach("parent"), 2)
    shutil.copytree(host.folder("parent"), host.folder("copy"))
    trial = PackedTrial(config(host, "copy", from_step=6))
    assert trial.step() == {"done": True}
    trial.stop()


def test_a_copy_tells_what_its_parent_had_not_yet_told(host: Host) -> None:
    told = reports(host.attach("parent"), 2)
    shutil.copytree(host.folder("parent"), host.folder("copy"))
    trial = PackedTrial(config(host, "copy", from_step=3))
    report = trial.step()
    assert report["report"] == told[1]
    assert report["done"]
    trial.stop()
