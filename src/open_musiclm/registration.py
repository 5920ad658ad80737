"""This package's models among transformers' Auto classes, without importing either before it is asked for.

    import open_musiclm ──→ waits for transformers' `AutoConfig` to be imported
    from transformers import AutoModel ──→ the configs register themselves (models/configuration.py)
    a config is made ──→ the models register themselves (`register_models`)

So `import open_musiclm` needs no torch, and `AutoModel.from_pretrained(folder)` behind it finds the classes. Before it
transformers cannot know them: it says that it does not recognize the model type, `open_musiclm_…`; import this package.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

AUTO_CONFIG_MODULE = "transformers.models.auto.configuration_auto"
CONFIGS = "open_musiclm.models.configuration"
MODELS = ("open_musiclm.models.stages", "open_musiclm.models.spectral_codec", "open_musiclm.tokenizers.quantizers")


def register_configs() -> None:
    """Register the configs now if transformers' `AutoConfig` is there, else as soon as it is."""
    if AUTO_CONFIG_MODULE in sys.modules:
        importlib.import_module(CONFIGS)
    elif not any(isinstance(finder, _AutoConfigFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoConfigFinder())


def register_models() -> None:
    """Register the models: a config was made, of which `AutoModel` may be asked for the model."""
    for name in MODELS:
        if name not in sys.modules:
            importlib.import_module(name)


class _AutoConfigFinder(MetaPathFinder):
    """Finds one module as everybody else does, and registers the configs behind its import."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != AUTO_CONFIG_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        importlib.import_module(CONFIGS)
