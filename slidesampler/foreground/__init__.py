"""The foreground index: where the classes of every image are, without a list of pixels.

Built with the label layer and kept beside it; sources choose windows from it and never look at pixels.
"""

from slidesampler.foreground.image_index import VALID, ImageIndex, TissueMask, index_image
from slidesampler.foreground.index import ForegroundIndex, IndexColumns

__all__ = ["VALID", "ForegroundIndex", "ImageIndex", "IndexColumns", "TissueMask", "index_image"]
