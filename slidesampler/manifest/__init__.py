"""The manifest room: a kwcoco file goes in, numpy columns come out.

:class:`Manifest` is what every other room reads images and annotations from; :func:`manifest_from_folder`
makes a manifest for people who have a folder of slides and no manifest yet.
"""

from __future__ import annotations

from slidesampler.manifest.files import check_size, naming_image
from slidesampler.manifest.folder import FolderManifest, FolderNote, manifest_from_folder
from slidesampler.manifest.manifest import Manifest

__all__ = [
    "FolderManifest",
    "FolderNote",
    "Manifest",
    "check_size",
    "manifest_from_folder",
    "naming_image",
]
