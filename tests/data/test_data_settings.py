"""What the `data` section takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from raytune_glm.data import DataConfig


def test_one_place_and_a_list_of_places_are_the_same_thing() -> None:
    assert DataConfig(train="a.json") == DataConfig(train=["a.json"])
    assert DataConfig(train=["a.json", "b"]).train == ("a.json", "b")


def test_a_config_written_as_json_reads_back_the_same() -> None:
    config = DataConfig(train=["a.json"], dev_rows=4, overlong="skip")
    assert DataConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"max_length": 64, "max_source_length": 64}, "max_source_length=64 and max_length=64"),
        (
            {"dev": "d.json", "dev_rows": 3},
            r"dev_rows=3 and dev=\['d.json'\]; unset one by data.dev=null",
        ),
        ({"max_dev_rows": 3}, "max_dev_rows=3; give `dev` or `dev_rows`, or remove it"),
        ({"max_test_rows": 3}, "max_test_rows=3; give `test` or remove it"),
        ({"dev": "d.json", "max_retain_rows": 3}, "give `retain` or remove it"),
        ({"retain": "r.json"}, "must have dev rows beside it"),
        ({"train": []}, "at least 1 item"),
        ({"train": ""}, "at least 1 character"),
        ({"overlong": "drop"}, "'truncate' or 'skip'"),
        ({"dev_rows": -1}, "greater than or equal to 0"),
        ({"max_len": 10}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        DataConfig(**{"train": "t.json"} | settings)


def test_a_config_cannot_be_changed() -> None:
    config = DataConfig(train="t.json")
    with pytest.raises(ValidationError, match="frozen"):
        config.max_length = 10
