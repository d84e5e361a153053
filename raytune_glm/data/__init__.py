"""Data: from files of rows to encoded, ordered and padded batches.

`settings` says which rows; `places`, `records` and `formats` find and read them; `reading` checks
and splits them; `encoding` makes tokens of them, which `store` keeps on disk for all trials;
`order` says which rows a step trains on, and `collation` pads them. All of it is light to import:
`datasets` and torch are imported where they are used.
"""

from raytune_glm.data.encoding import SplitStats
from raytune_glm.data.formats import FORMATS
from raytune_glm.data.reading import Row, Survey, check_files, read_splits, survey_files
from raytune_glm.data.settings import SPLITS, DataConfig, Split
from raytune_glm.data.store import EncodedData, encode_splits, load_encoded, measure_splits

__all__ = [
    "FORMATS",
    "SPLITS",
    "DataConfig",
    "EncodedData",
    "Row",
    "Split",
    "SplitStats",
    "Survey",
    "check_files",
    "encode_splits",
    "load_encoded",
    "measure_splits",
    "read_splits",
    "survey_files",
]
