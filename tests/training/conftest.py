from token_fixtures import *  # noqa: F403
