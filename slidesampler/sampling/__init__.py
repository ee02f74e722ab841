"""Sources of windows: which target stands at an index of an epoch.

Every source is a pure function of ``(seed, epoch, index)`` and reads no pixels; see
:class:`~slidesampler.sampling.base.TargetSource`.
"""

from slidesampler.sampling.base import SourceSampler, TargetSource
from slidesampler.sampling.fixed import FixedSource
from slidesampler.sampling.grid import GridSource
from slidesampler.sampling.negative import NegativeSource
from slidesampler.sampling.positive import PositiveSource

__all__ = ["FixedSource", "GridSource", "NegativeSource", "PositiveSource", "SourceSampler", "TargetSource"]
