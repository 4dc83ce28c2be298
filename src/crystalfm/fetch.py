"""Fill the asset cache: ``python -m crystalfm.fetch NAME…`` (also ``list`` and ``verify``)."""

from __future__ import annotations

from crystalfm.assets.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
