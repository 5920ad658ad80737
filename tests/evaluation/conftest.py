import pytest
from hypothesis import settings

# how long an example takes says nothing on a machine that others use too
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def nets(tmp_path_factory):
    """Folders of tiny random networks: `clap`, `ast`, `hubert`, `musicgen` and a whole `pipeline` of ours."""
    from evaluation_networks import save_ast, save_clap, save_hubert, save_musicgen
    from tiny import tiny_pipeline

    root = tmp_path_factory.mktemp("networks")
    save_clap(root / "clap", seed=7)
    save_ast(root / "ast")
    save_hubert(root / "hubert")
    save_musicgen(root / "musicgen")
    tiny_pipeline().save_pretrained(root / "pipeline")
    return root


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """Folder of prompts, references and held-out clips; see `evaluation_scene`."""
    from evaluation_scene import make_scene

    return make_scene(tmp_path_factory.mktemp("scene"))
