import hub_environment
import pytest


@pytest.fixture
def hub():
    """An empty Hub; `HF_ENDPOINT` points to it."""
    hub_environment.HUB.clear()
    return hub_environment.HUB


@pytest.fixture
def token():
    return hub_environment.TOKEN
