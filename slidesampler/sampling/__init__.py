"""Sources of windows: which target stands at an index of an epoch.

Every source is a pure function of ``(seed, epoch, index)`` and reads no pixels; see
:class:`~slidesampler.sampling.base.TargetSource`.
"""

from slidesampler.sampling.balanced import BalancedSource
from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.coverage import CoverageSource
from slidesampler.sampling.draw_record import DrawRecord
from slidesampler.sampling.fixed import FixedSource, freeze
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.log import SampleLog
from slidesampler.sampling.log_columns import read_log
from slidesampler.sampling.mixture import MixtureSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource
from slidesampler.sampling.rejection import RejectionSource
from slidesampler.sampling.summary import summarize
from slidesampler.sampling.survey import dataset_statistics
from slidesampler.sampling.target_file import write_jsonl
from slidesampler.sampling.tiles import ImageMajorTiles, RandomTilePerImage, TileMajorTiles
from slidesampler.sampling.weighted import WeightedSource

__all__ = [
    "BalancedSource",
    "CoverageSource",
    "DrawRecord",
    "FixedSource",
    "GridSource",
    "ImageMajorTiles",
    "MixtureSource",
    "NegativeSource",
    "PositiveSource",
    "RandomTilePerImage",
    "RejectionSource",
    "SampleLog",
    "SourceSampler",
    "TargetSource",
    "TileMajorTiles",
    "WeightedSource",
    "dataset_statistics",
    "freeze",
    "read_log",
    "summarize",
    "write_jsonl",
]
