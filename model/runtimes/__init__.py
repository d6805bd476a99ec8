"""Where a model runs: one seam (base.py), one file a runtime."""
