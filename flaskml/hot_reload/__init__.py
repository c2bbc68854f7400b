"""Hot reload: processes follow the store without a restart, by a registry of slots, a roster and a watcher."""
