"""The manifest room: a kwcoco file goes in, numpy columns come out.

:class:`Manifest` is what every other room reads images and annotations from; :func:`manifest_from_folder`
writes a manifest for people who have a folder of slides and no manifest yet.
"""

from __future__ import annotations

from slidesampler.manifest.manifest import Manifest

__all__ = ["Manifest"]
