"""``python -m slidesampler`` is the command ``slidesampler``."""

from __future__ import annotations

from slidesampler.cli import main

if __name__ == "__main__":
    main()
