"""Packages that only some uses need: which extra of this package brings them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

#: package, as it is imported → extra of pyproject.toml
EXTRA_OF = {
    "datasets": "train",
    "peft": "train",
    "sklearn": "train",
    "pyarrow": "train",
    "pandas": "train",
    "datatrove": "cluster",
    "scipy": "eval",
    "matplotlib": "eval",
    "optimum": "quantize",
    "mido": "midi",
    "av": "audio",
    "gradio": "app",
    "fastapi": "app",
    "uvicorn": "app",
    "prometheus_client": "app",
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for a module that is not there; `None` if it is of no extra."""
    package = (error.name or "").split(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return None
    return (
        f"This needs the package {package!r}, which comes with the extra {extra!r}: "
        f'pip install "open-musiclm[{extra}]" (in a clone of the repository: pip install ".[{extra}]").'
    )


@contextmanager
def extra_needed() -> Iterator[None]:
    """Around the import of a package of an extra: one that is missing is said with what to install.

    Raises:
        ImportError: it is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        said = missing_extra(error)
        if said is None:
            raise
        raise ImportError(said, name=error.name) from error


def require(*packages: str) -> None:
    """Refuse, before long work, what would fail at its end for want of a package.

    Raises:
        ImportError: one is missing; it says what to install.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            with extra_needed():
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
