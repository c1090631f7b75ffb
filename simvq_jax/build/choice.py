"""A choice by name in a config."""


def one_of(key: str, value: str, choices) -> str:
    """The value, or ValueError naming the key and its choices."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r} but must be one of {', '.join(choices)}.")
    return value
