"""Measurements: each figure beside its baseline, taken in turn in the same run. `python -m bench [NAME…]`."""
