"""Errors cross processes and are told apart from faults of ours."""

from __future__ import annotations

import pickle

import pytest

from raytune_glm import errors

USER_ERRORS = [errors.ConfigError, errors.DataError, errors.ModelError, errors.ResourceError]


@pytest.mark.parametrize("kind", [*USER_ERRORS, errors.NonFiniteLossError])
def test_an_error_of_a_worker_arrives_as_it_was_raised(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("train.rank must be >= 1")))
    assert (type(error), str(error)) == (kind, "train.rank must be >= 1")


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_a_fault_of_the_input_is_caught_as_one(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.UserError)


def test_a_loss_that_is_not_finite_is_the_trials_failure_and_not_the_users() -> None:
    assert not issubclass(errors.NonFiniteLossError, errors.UserError)
