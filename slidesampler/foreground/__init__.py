"""The foreground index: where the classes of every image are, without a list of pixels.

Built with the label layer and kept beside it; sources choose windows from it and never look at pixels.
"""

from slidesampler.foreground.columns import IndexColumns
from slidesampler.foreground.image_index import VALID, ImageIndex, TissueMask, index_image
from slidesampler.foreground.index import ForegroundIndex
from slidesampler.foreground.mapped import map_arrays, write_arrays
from slidesampler.foreground.storage import INDEX_FILE, load_index, save_index
from slidesampler.foreground.tissue import find_tissue, image_tissue, tissue_from_mask

__all__ = [
    "INDEX_FILE",
    "VALID",
    "ForegroundIndex",
    "ImageIndex",
    "IndexColumns",
    "TissueMask",
    "find_tissue",
    "image_tissue",
    "index_image",
    "load_index",
    "map_arrays",
    "save_index",
    "tissue_from_mask",
    "write_arrays",
]
