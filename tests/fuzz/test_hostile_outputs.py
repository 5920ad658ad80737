"""Item 1: wherever a conversion is told to write, and whenever it is killed, no file is lost that no conversion wrote."""

import json
import os

import pytest
from tally import JSON_VALUES, Tally, forked, pick, seeded

from open_musiclm.conversion import output_folder
from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.output_folder import CONVERSION_MARKER, whole_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes")
FOLDERS = ("in", "in/deep", "home", "home/letters", "models", "empty", "caf\udce9")
MOMENTS = (None, None, "fails", "within", "between", "after")


def write(output, text, overwrite, inputs, moment=None):
    renames = []
    rename = os.replace

    def replace(source, target):
        rename(source, target)
        renames.append(target)
        if len(renames) == {"between": 1, "after": 2}.get(moment):
            os._exit(9)

    output_folder.os.replace = replace
    with whole_folder(output, overwrite, inputs, say=lambda line: None) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "model.txt").write_text(text)
        if moment == "within":
            os._exit(9)
        if moment == "fails":
            raise CheckpointError("on the way")


def make_world(root, random):
    """Folders of files that are somebody's, links to some, and a conversion."""
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
        if name != "empty":
            (root / name / "precious.txt").write_text(name.encode(errors="replace").decode())
    for link, target in (
        ("link", "in"),
        ("another", "models/out"),
        ("nowhere", "missing"),
        ("home/up", ".."),
        ("round", "round"),
    ):
        (root / link).symlink_to(root / target)
    assert forked(lambda: write(root / "models" / "out", "old", False, ())) == "done"
    if random.random() < 0.2:  # something came into it
        target = pick(random, ("thesis.txt", "part/thesis.txt"))
        (root / "models" / "out" / target).write_text("mine")
    if random.random() < 0.2:
        (root / "models" / "out" / "link").symlink_to(root / "in")
    if random.random() < 0.2:
        marker = pick(random, ("", "{}", "[" * 10_000, json.dumps({"files": pick(random, JSON_VALUES[:-3])})))
        (root / "models" / "out" / CONVERSION_MARKER).write_text(marker)


def any_output(root, random):
    """A path of any relation to what is there."""
    place = pick(random, (*FOLDERS, "models/out", "models/out", "models/out", "models/out/part", "link", "another", "nowhere", "home/up",
                          "round", "in/precious.txt", "new", "new/deep", "."))  # fmt: skip
    path = root / place
    chance = random.random()
    if chance < 0.15:
        path = path / "new"
    elif chance < 0.3:
        path = path / ".." / pick(random, FOLDERS)
    elif chance < 0.35:
        path = root / "in" / ".." / place
    return path


def files_of(root) -> dict[str, bytes]:
    """Every file that is no conversion's model or marker, and every link."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*names, *folders):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[path] = os.fsencode(os.readlink(path))
            elif os.path.isfile(path) and name not in ("model.txt", CONVERSION_MARKER):
                with open(path, "rb") as file:
                    found[path] = file.read()
    return found


def models_of(root) -> dict[str, str]:
    return {path.parents[1].name: path.read_text() for path in root.rglob("part/model.txt")}


def attempt(root, seed):
    random = seeded(seed)
    root.mkdir()
    make_world(root, random)
    before = files_of(root)
    output, moment = any_output(root, random), pick(random, MOMENTS)
    inputs = pick(
        random, ([root / "in"], [root / "in" / "precious.txt"], [root / "in", None, "some/hub-id"], [root / "link"])
    )
    overwrite = bool(random.integers(4))
    ended = forked(lambda: write(output, "new", overwrite, inputs, moment), CheckpointError)
    assert ended in ("done", "refused", "killed"), ended
    assert files_of(root).items() >= before.items(), "a file is gone"
    assert "old" in models_of(root).values() or "new" in models_of(root).values(), "the model is gone"
    if os.path.realpath(root / "models" / "out") == os.path.realpath(output) and ended == "killed":
        again = forked(lambda: write(output, "newer", bool(random.integers(2)), inputs), CheckpointError)
        assert again in ("done", "refused"), again
        assert files_of(root).items() >= before.items(), "a file is gone after the rerun"
        assert models_of(root).get("out") in ("old", "new", "newer"), "the model is not back"
        left = [name for name in os.listdir(root / "models") if name not in ("out", "precious.txt")]
        assert not left, f"left behind: {left}"


def test_outputs_of_a_conversion(tmp_path, number):
    tally = Tally("1 outputs of a conversion")
    for seed in range(number(20, 1500)):
        tally.attempt(seed, lambda seed=seed: attempt(tmp_path / str(seed), seed))
    tally.finish()
