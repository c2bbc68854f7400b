"""Settings of this instance, as NAME = value. The README's table lists them; the environment wins over this file."""
