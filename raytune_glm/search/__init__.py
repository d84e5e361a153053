"""What a sweep searches for and how: the `search` section of a sweep file.

`samplers` propose trials, `schedulers` stop the bad ones early. The objects of Optuna and Ray are
built by the settings' own `build` methods, so that reading a sweep file imports neither.
"""

from raytune_glm.search.samplers import Sampler
from raytune_glm.search.schedulers import Scheduler
from raytune_glm.search.settings import SearchSettings

__all__ = ["Sampler", "Scheduler", "SearchSettings"]
