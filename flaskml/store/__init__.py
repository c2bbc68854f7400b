"""Versions on disk: folders that never change, signed manifests, and one state file for each model."""
