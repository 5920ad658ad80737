import pytest

from open_musiclm.cli import build_parser


@pytest.fixture(scope="session")
def run_convert():
    """Runs the command in this process; its errors are raised."""

    def run(*arguments: object) -> None:
        args = build_parser().parse_args(["convert", *map(str, arguments)])
        args.run(args)

    return run


@pytest.fixture
def convert(run_convert, capsys):
    """Runs the command; returns what it printed."""

    def run(*arguments: object) -> str:
        run_convert(*arguments)
        return capsys.readouterr().out

    return run
