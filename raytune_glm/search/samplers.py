"""Samplers: who proposes the next trial.

What a sampler cannot work with is refused before anything starts. On the command line
`search.sampler=random` chooses another one, with its own defaults.
"""

# One class a sampler, one line in the `Sampler` union. Read next: `pairs`.

from __future__ import annotations

import random
import warnings
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from raytune_glm import space as spaces

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class _SamplerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    learns: ClassVar[bool] = True
    """Whether its proposals depend on how trials went."""
    learns_from_stopped: ClassVar[bool] = True
    """Whether trials that a scheduler stopped tell it anything."""
    takes_objectives: ClassVar[bool] = True
    """Whether it can propose for more than one objective."""
    takes_limits: ClassVar[bool] = True
    """Whether it keeps out of regions where limits were passed; one that never learns may ignore
    them, since it proposes what it proposes."""
    takes_conditions: ClassVar[bool] = True
    """Whether it can search settings that only some trials have, those inside a `one_of`."""
    waits_for: ClassVar[str | None] = "num_startup_trials"
    """Its setting of how many trials are proposed at random before it proposes by what it learnt;
    none: it never learns."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1234
    """Seed of the proposals. With one trial at a time, the same seed proposes the same trials."""


class TPESettings(_SamplerSettings):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), joint over a trial's settings.

    Its kernels are narrower than Optuna's, so that late proposals stay near the good trials. Learns
    from stopped trials by how far they came, and from trials beyond memory or another limit by how
    far they were beyond it; running trials count as bad ones (constant liar), so that trials
    started side by side are not the same one twice.
    """

    name: Literal["tpe"] = "tpe"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Finished trials, those beyond memory or a limit not counted, before the model proposes; until
    then proposals are random. In a sweep of fewer than 20 trials, write 4 or so."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make Optuna's sampler.

        Args:
            num_trials_before: Trials that the study has already; a resumed sweep draws on from
                there instead of drawing its first proposals again.
            space: What is searched.
        """
        del space
        import optuna

        from raytune_glm.search.feasible import FeasibleStart
        from raytune_glm.search.parzen import narrow

        seed = self.seed + num_trials_before
        with warnings.catch_warnings():
            # Optuna's notice that `group` may change one day.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tpe = optuna.samplers.TPESampler(
                n_startup_trials=self.num_startup_trials,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
            )
        return FeasibleStart(
            optuna.samplers.RandomSampler(seed=seed),
            narrow(tpe),
            num_feasible=self.num_startup_trials,
        )


class ForecastSettings(_SamplerSettings):
    """Forecasts each point's end by a Gaussian process over settings and learning curves.

    Learns from all trials, stopped and running ones too, how the settings act early and how in the
    end, and from trials beyond memory or another limit where not to go. A space with a `one_of`,
    several objectives, and what comes after 300 trials are left to `tpe`, which is no worse there
    and costs less.
    """

    name: Literal["forecast"] = "forecast"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Trials with a report, those beyond memory or a limit not counted, before the model proposes;
    until then proposals are random. In a sweep of fewer than 20 trials, write 4 or so."""
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Of the trials after that, how many are proposed at random all the same, so that no region is
    given up for good."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make the sampler; see `TPESettings.build`."""
        import optuna

        from raytune_glm.search.forecast import ForecastSampler

        seed = self.seed + num_trials_before
        settings = TPESettings(seed=self.seed, num_startup_trials=self.num_startup_trials)
        tpe = settings.build(num_trials_before=num_trials_before, space=space)
        if not space or any(isinstance(known, spaces.OneOf) for known in space.values()):
            return tpe
        return ForecastSampler(
            space,
            start=optuna.samplers.RandomSampler(seed=seed),
            other=tpe,
            num_startup_trials=self.num_startup_trials,
            random_share=self.random_share,
            seed=seed,
        )


class BOHBSettings(_SamplerSettings):
    """Hyperband-aware TPE, after BOHB (Falkner et al. 2018).

    Trials are compared at one and the same step: the highest that enough of them came to. Running
    trials that are past it count with their score there, so that nothing waits for their end.
    """

    takes_objectives: ClassVar[bool] = False

    name: Literal["bohb"] = "bohb"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    """Finished trials, those beyond memory or a limit not counted, before the model proposes; until
    then proposals are random. In a sweep of fewer than 20 trials, write 4 or so."""
    num_at_step: Annotated[int, Field(ge=2)] = 6
    """Fewest trials that must have come to a step for trials to be compared there."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make the sampler; see `TPESettings.build`."""
        from raytune_glm.search.bohb import trials_at_one_step
        from raytune_glm.search.view import ThroughView

        inner = TPESettings(seed=self.seed, num_startup_trials=self.num_startup_trials)
        return ThroughView(
            inner.build(num_trials_before=num_trials_before, space=space),
            partial(trials_at_one_step, num_at_step=self.num_at_step),
        )


class CMAESSettings(_SamplerSettings):
    """Covariance matrix adaptation (Hansen 2016): many trials over a few settings on a scale."""

    learns_from_stopped: ClassVar[bool] = False
    takes_objectives: ClassVar[bool] = False
    takes_limits: ClassVar[bool] = False
    takes_conditions: ClassVar[bool] = False

    name: Literal["cmaes"] = "cmaes"
    num_startup_trials: Annotated[int, Field(ge=1)] = 4
    """Complete trials before the first generation; until then proposals are random."""
    population: Annotated[int, Field(ge=2)] | None = None
    """Trials of a generation; none: 4 + 3 ln(number of settings), as Hansen advises."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make Optuna's sampler; see `TPESettings.build`."""
        del space
        import optuna

        return optuna.samplers.CmaEsSampler(
            n_startup_trials=self.num_startup_trials,
            popsize=self.population,
            # Choices are drawn at random beside it; `pairs` sees that they are not all there is.
            warn_independent_sampling=False,
            seed=self.seed + num_trials_before,
        )


class GPSettings(_SamplerSettings):
    """Gaussian process with expected improvement: the fewest trials, where each one is dear."""

    learns_from_stopped: ClassVar[bool] = False
    takes_conditions: ClassVar[bool] = False

    name: Literal["gp"] = "gp"
    num_startup_trials: Annotated[int, Field(ge=1)] = 6
    """Complete trials before the model proposes; until then proposals are random."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make Optuna's sampler; see `TPESettings.build`."""
        del space
        import optuna

        with warnings.catch_warnings():
            # Optuna's notice that the sampler may change one day.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.GPSampler(
                n_startup_trials=self.num_startup_trials,
                warn_independent_sampling=False,
                seed=self.seed + num_trials_before,
            )


class NSGA2Settings(_SamplerSettings):
    """NSGA-II (Deb et al. 2002), a genetic algorithm for several objectives and many trials."""

    learns_from_stopped: ClassVar[bool] = False
    waits_for: ClassVar[str | None] = "population"

    name: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 16
    """Complete trials of a generation; the first one is random."""

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make Optuna's sampler; see `TPESettings.build`."""
        del space
        import optuna

        return optuna.samplers.NSGAIISampler(
            population_size=self.population, seed=self.seed + num_trials_before
        )


class RandomSettings(_SamplerSettings):
    """Uniform random proposals: the yardstick for every other sampler."""

    learns: ClassVar[bool] = False
    waits_for: ClassVar[str | None] = None

    name: Literal["random"] = "random"

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make Optuna's sampler; see `TPESettings.build`."""
        del space
        import optuna

        return optuna.samplers.RandomSampler(seed=self.seed + num_trials_before)


class GridSettings(_SamplerSettings):
    """Every point of the space once, in an order drawn by `seed`.

    Of a `one_of`, each variant is combined with its own settings only. With fewer trials than
    points, those that come are spread over the grid.
    """

    learns: ClassVar[bool] = False
    waits_for: ClassVar[str | None] = None

    name: Literal["grid"] = "grid"

    def build(self, *, num_trials_before: int, space: spaces.Space) -> BaseSampler:
        """Make the sampler; see `TPESettings.build`."""
        del num_trials_before  # a trial's point follows from its number alone
        from raytune_glm.search.grid import GridSampler

        points = spaces.grid(space)
        random.Random(self.seed).shuffle(points)
        return GridSampler(points)


Sampler: TypeAlias = Annotated[
    ForecastSettings
    | TPESettings
    | BOHBSettings
    | CMAESSettings
    | GPSettings
    | NSGA2Settings
    | RandomSettings
    | GridSettings,
    Field(discriminator="name"),
]
