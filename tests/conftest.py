import os

import hub_environment  # first: it sets HF_ENDPOINT
import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels then run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tiny import tiny_pipeline


@pytest.fixture(scope="session")
def pipe():
    """A whole pipeline of random weights. Tests must not change it."""
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pipeline_folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def hub():
    """An empty Hub; `HF_ENDPOINT` points to it."""
    hub_environment.HUB.clear()
    return hub_environment.HUB


@pytest.fixture
def token():
    return hub_environment.TOKEN
