"""What the benchmarks' flags have in common."""


def numbers(text: str, flag: str) -> list[int]:
    """[1024, 8192] of "1024,8192". Raises ValueError on anything but whole numbers from 1 on."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--{flag} is {text!r} but must be whole numbers from 1 on, separated by commas.")
    return [int(part) for part in parts]
