"""What tests do with stores."""


def load_active(store, name):
    """Return the active version in memory, as a server would load it."""
    active = store.state_or_unused(name).active
    if active is None:
        raise store.nothing_active(name)
    return store.load(name, active)
