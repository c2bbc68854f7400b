"""Processes follow the store without a restart: the registry of slots, the roster, the watcher."""
