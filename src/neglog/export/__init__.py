"""Fits on disk: one file of JSON with a digest of its content; no pickle, no data, no code."""

from neglog.export.saved import Saved, check_folder, load, save

__all__ = ["Saved", "check_folder", "load", "save"]
