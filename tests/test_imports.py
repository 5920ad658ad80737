"""What is imported when: light where nothing is computed, whole where Auto classes are asked, and no circles."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import open_musiclm
from open_musiclm.cli import COMMANDS

ROOT = Path(open_musiclm.__file__).parent
HEAVY = ("torch", "transformers", "diffusers", "numpy", "huggingface_hub", "datasets", "soundfile", "scipy")


def run(code: str) -> str:
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_help_needs_no_library():
    """`open-musiclm --help` and each `COMMAND --help`."""
    code = f"""
import contextlib, io, sys
from open_musiclm.cli import main
for arguments in ([], *([command] for command in {COMMANDS!r})):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    assert "usage: open-musiclm" in text.getvalue()
    print(arguments, [name for name in {HEAVY!r} if name in sys.modules])
"""
    lines = run(code).splitlines()
    assert len(lines) == 1 + len(COMMANDS)
    assert all(line.endswith("[]") for line in lines), lines


def test_import_of_the_package_needs_no_torch():
    code = "import sys, open_musiclm; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(code.format(heavy=HEAVY)).strip() == "[]"


TINY = "hidden_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16"


@pytest.mark.parametrize(
    "imports",
    [
        "import open_musiclm\nfrom transformers import AutoConfig, AutoModel",
        "from transformers import AutoConfig, AutoModel\nimport open_musiclm",
        "import open_musiclm\nfrom transformers import AutoModel, AutoConfig, GenerationMixin, ClapModel",
    ],
)
def test_auto_classes_find_the_models_whoever_comes_first(imports):
    code = f"""
{imports}
config = AutoConfig.for_model("open_musiclm_fine", {TINY})
print(type(AutoModel.from_config(config)).__name__)
config = AutoConfig.for_model("open_musiclm_semantic_quantizer", codebook_size=4, feature_dim=4)
print(type(AutoModel.from_config(config)).__name__)
"""
    assert run(code).split() == ["MusicLMFineModel", "SemanticQuantizer"]


def test_of_diffusers_only_what_a_pipeline_is_made_of():
    code = """
import sys
from open_musiclm import MusicLMPipeline
print(sorted({name.split(".")[2] for name in sys.modules if name.startswith("diffusers.pipelines.")}))
"""
    assert set(ast.literal_eval(run(code))) <= {"pipeline_loading_utils", "pipeline_utils", "pipeline_flax_utils"}


# ------------------------------------------------------------- the house itself


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of this package that a module imports when it is imported itself."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = set()
    body = [
        node
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        for node in ([statement, *statement.body] if isinstance(statement, ast.Try) else [statement])
    ]
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            origin = ".".join(part for part in (base if node.level else "", node.module) if part)
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in modules}


def source_files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if "checkpoints" not in path.relative_to(ROOT).parts]


def test_no_circle_of_imports():
    modules = {module_name(path) for path in source_files()}
    # a package stands in this graph as its __init__ alone, without what only re-exports lazily
    edges = {module_name(path): imported_modules(path, modules) - {module_name(path)} for path in source_files()}
    done: set[str] = set()
    while len(done) < len(edges):
        free = {name for name, needs in edges.items() if name not in done and needs <= done}
        assert free, f"these import one another: {sorted(set(edges) - done)}"
        done |= free


def test_no_file_is_longer_than_400_lines():
    long = {path.name: n for path in source_files() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_no_lazy_name_is_that_of_its_packages_module():
    """Importing the module would put it in the name's place."""
    for package in ROOT.rglob("__init__.py"):
        modules = {path.stem for path in package.parent.iterdir()}
        for node in ast.parse(package.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_MODULE_OF"
            if named and isinstance(node.value, ast.Dict):
                assert not modules & {key.value for key in node.value.keys}, package
