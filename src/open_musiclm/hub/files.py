"""Files of models as they lie on a disk: told from what is no such file, and never executed, before anything is loaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: no config or index of a model comes near it
MAX_JSON_BYTES = 32 << 20
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a safetensors header: dtype as the format names it (`"F32"`), shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


def read_json(path: str | Path) -> Any:
    """A JSON file's content.

    Raises:
        ValueError: It is no JSON, too large or too deep; the line says what it is instead, where that can be told.
    """
    path = Path(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no JSON file of a model is that large.")
    content = path.read_bytes()
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for a JSON file of a model.") from None
    except ValueError as error:
        what = _other_kind(content) or f"is no JSON ({error})"
        raise ValueError(f"{path} {what}.") from None


def read_json_table(path: str | Path) -> dict[str, Any]:
    """A JSON file that holds a table.

    Raises:
        ValueError: It is no JSON, or not a table.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} where a table of settings is needed.")
    return content


def read_header(path: str | Path) -> dict[str, StoredTensor]:
    """Name → dtype and shape of every tensor in a safetensors file, from its header alone.

    Raises:
        ValueError: It is empty, cut off, damaged, or something else (a Git LFS pointer, a web page).
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with path.open("rb") as file:
        start = file.read(512)
    what = "is empty" if not start else _other_kind(start)
    if what is None:
        try:
            with safe_open(path, framework="np") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - not a dict
                return {name: StoredTensor(str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
        except (SafetensorError, OSError, OverflowError) as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            what = f"is cut off or damaged ({reason}): copy or download it again"
    raise ValueError(f"{path} {what}.")


def check_torch_file(path: str | Path) -> None:
    """Refuses a file of `torch.save` in a format that reading would unpack to the disk, or whose bytes have changed.

    Of PyTorch's formats the zip archive (its checksums are compared, nothing is decompressed) and the plain pickle of
    before 1.6 are read; the tar archive of before 0.1.10 is not: unpacking one could write outside its folder.

    Raises:
        ValueError: It is empty, cut off, damaged, a tar archive, or no file of PyTorch.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path} is empty.")
    what = _other_kind(start)
    if what is not None:
        raise ValueError(f"{path} {what}.")
    if start[257:262] == b"ustar" or (start[:2] != b"PK" and _tar_checksum_holds(start)):
        raise ValueError(
            f"{path} is a tar archive, PyTorch's format of before 2017, which is not read: unpacking one can write "
            "anywhere. Load it once where it is trusted, and save it again with `torch.save`."
        )
    if start[:2] == b"PK" or zipfile.is_zipfile(path):
        _check_zip(path)
    elif start[:1] != b"\x80":
        raise ValueError(f"{path} is no file that PyTorch saved.")


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            compressed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
            if compressed is not None:
                raise ValueError(
                    f"{path} holds compressed data ({_shortened(compressed.filename)}), which PyTorch never writes."
                )
            total = sum(entry.file_size for entry in entries)
            if total > path.stat().st_size:
                raise ValueError(f"{path} claims to hold {total:,} bytes, more than it has: it is damaged.")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}): copy or download it again.") from None
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged: the checksum of {_shortened(damaged)} does not fit its bytes. Copy or download it again."
        )


def _tar_checksum_holds(block: bytes) -> bool:
    """Whether a file's first 512 bytes are a tar header: the sum of its bytes stands in it, in octal."""
    if len(block) < 512:
        return False
    try:
        stated = int(block[148:156].rstrip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * ord(" ") + sum(block[156:512])


def _other_kind(start: bytes) -> str | None:
    """What a file is that begins so, if it is one of those that stand where weights should."""
    text = start.lstrip()[:64].lower()
    if start.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, or download it"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not the file itself: download it again"
    return None


def _shortened(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def total_elements(header: Mapping[str, StoredTensor]) -> int:
    """Of all tensors."""
    return sum(tensor.num_elements for tensor in header.values())
