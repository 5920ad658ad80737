import os
import signal

import hub_environment  # first: it sets HF_ENDPOINT
import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels then run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tiny import tiny_pipeline

# A shell that starts the tests in the background has its children ignore these, and theirs would inherit it: tests send them.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


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
