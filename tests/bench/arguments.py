"""Types of arguments that the benchmark programs share."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Collection


def some_of(choices: Collection[str]) -> Callable[[str], list[str]]:
    """Return a type for names with commas between them, each one of the choices."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(choices):
            raise ArgumentTypeError(f"choose from {', '.join(choices)}")
        return names

    return parse


def counts(text: str) -> list[int]:
    """Return the whole numbers of a text such as 1,32."""
    return [int(count) for count in text.split(",")]
