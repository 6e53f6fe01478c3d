"""Ratios against the host: the same work, by the same weights, in one run."""
