"""Samplers: who proposes the next trial. One class a sampler, one line in the `Sampler` union."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class _SamplerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1234
    """Seed of the proposals. With one trial at a time, the same seed proposes the same trials."""


class TPESettings(_SamplerSettings):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), joint over a trial's settings."""

    name: Literal["tpe"] = "tpe"
    num_startup_trials: Annotated[int, Field(ge=1)] = 4
    """Finished trials before the model proposes; until then proposals are random."""

    def build(self, *, num_trials_before: int) -> BaseSampler:
        """Make Optuna's sampler.

        Running trials count as bad ones (constant liar), so that trials started side by side are
        not the same one twice.

        Args:
            num_trials_before: Trials that the study has already; a resumed sweep draws on from
                there instead of drawing its first proposals again.
        """
        import optuna

        with warnings.catch_warnings():
            # Optuna's notice that `multivariate`, `group` and `constant_liar` may change one day.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.num_startup_trials,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=self.seed + num_trials_before,
            )


class RandomSettings(_SamplerSettings):
    """Uniform random proposals: the yardstick for every other sampler."""

    name: Literal["random"] = "random"

    def build(self, *, num_trials_before: int) -> BaseSampler:
        """Make Optuna's sampler; see `TPESettings.build`."""
        import optuna

        return optuna.samplers.RandomSampler(seed=self.seed + num_trials_before)


Sampler: TypeAlias = Annotated[TPESettings | RandomSettings, Field(discriminator="name")]
