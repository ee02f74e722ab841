"""Sources of windows: which target stands at an index of an epoch.

Every source is a pure function of ``(seed, epoch, index)`` and reads no pixels; see
:class:`~slidesampler.sampling.base.TargetSource`.
"""

from slidesampler.sampling.asked import asked_shares
from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.coverage import CoverageSource
from slidesampler.sampling.draw_record import DrawRecord, ExplainedSource
from slidesampler.sampling.dry_runs import dry_run
from slidesampler.sampling.fixed import FixedSource, freeze
from slidesampler.sampling.from_words import source_from_words
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.grid_rule import TileRule
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.log_columns import read_log
from slidesampler.sampling.map_files import save_maps
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.regions import RestrictedSource, inside_regions, split_by_region
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.split_check import check_split
from slidesampler.sampling.splits import k_folds, split_as_given, split_by_class, split_by_group
from slidesampler.sampling.summary import summarize
from slidesampler.sampling.survey import dataset_statistics
from slidesampler.sampling.target_file import write_jsonl
from slidesampler.sampling.tiles import ImageMajorTiles, RandomTilePerImage, TileMajorTiles
from slidesampler.sampling.weighted import WeightedSource

__all__ = [
    "BalancedSource",
    "CoverageSource",
    "DrawRecord",
    "ExplainedSource",
    "FixedSource",
    "GridSource",
    "ImageMajorTiles",
    "MixtureSource",
    "NegativeSource",
    "PositiveSource",
    "RandomTilePerImage",
    "RejectionSource",
    "RestrictedSource",
    "SampleLog",
    "SourceSampler",
    "TargetSource",
    "TileMajorTiles",
    "TileRule",
    "WeightedSource",
    "asked_shares",
    "check_split",
    "dataset_statistics",
    "dry_run",
    "freeze",
    "inside_regions",
    "k_folds",
    "read_log",
    "save_maps",
    "source_from_words",
    "split_as_given",
    "split_by_class",
    "split_by_group",
    "split_by_region",
    "summarize",
    "write_jsonl",
]
