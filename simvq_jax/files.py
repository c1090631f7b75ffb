"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in one move."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
