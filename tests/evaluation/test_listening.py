import json

import numpy as np
import pytest

from open_musiclm.audio import write_audio
from open_musiclm.evaluation.clips import scan_clips
from open_musiclm.evaluation.listening.results import Rating, count_wins, read_results, write_wins
from open_musiclm.evaluation.listening.write import _matched


def key_of(tmp_path, pairs=4):
    key = {
        f"pair-{i:03d}": {
            "prompt_id": f"p{i}",
            "prompt": "x",
            "a": "new" if i % 2 else "old",
            "b": "old" if i % 2 else "new",
        }
        for i in range(pairs)
    }
    (tmp_path / "listening_key.json").write_text(json.dumps({"format": 1, "test": "t1", "pairs": key}))


def result_file(tmp_path, name, ratings, test="t1"):
    path = tmp_path / f"{name}.json"
    answers = [{"pair": f"pair-{i:03d}", "rating": rating} for i, rating in enumerate(ratings)]
    path.write_text(json.dumps({"format": 1, "test": test, "rater": name, "ratings": answers}))
    return str(path)


def test_clips_of_a_pair_have_one_length_and_level(tmp_path):
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "loud.wav", rng.standard_normal((2, 40000)) * 0.2, 16000)
    write_audio(tmp_path / "quiet.wav", rng.standard_normal(8000) * 0.02, 8000)
    write_audio(tmp_path / "silent.wav", np.zeros(8000), 8000)
    clips = scan_clips(tmp_path, "x").by_id()
    (a, rate_a), (b, rate_b) = _matched(clips["loud"], clips["quiet"])
    assert (rate_a, rate_b) == (16000, 8000)
    assert len(a) / rate_a == len(b) / rate_b == 1.0
    levels = [np.sqrt(np.mean(x.astype(np.float64) ** 2)) for x in (a, b)]
    assert levels == pytest.approx([0.02, 0.02], rel=0.05)
    (a, _), (b, _) = _matched(clips["loud"], clips["silent"])
    assert np.abs(a).max() > 0.2
    assert not b.any()


def test_sides_are_unblinded(tmp_path):
    key_of(tmp_path)
    # "new" is B in the even pairs and A in the odd ones; it wins all but the last, which is a tie
    files = [result_file(tmp_path, "ada", [2, -1, 1, 0])]
    wins = count_wins(*read_results(files, str(tmp_path)))
    assert wins.wins == {"new": 3, "old": 0}
    assert wins.answers == {"new": 4, "old": 4}
    (found,) = wins.rivalries
    assert (found.one, found.wins, found.ties, found.losses, found.win_share) == ("new", 3, 1, 0, 0.875)
    assert found.interval.low <= 0.875 <= found.interval.high
    assert any("4 prompts are few" in warning for warning in wins.warnings)
    page = write_wins(wins, str(tmp_path)).read_text()
    assert "new against old" in page
    assert json.loads((tmp_path / "listening_results.json").read_text())["rivalries"][0]["wins"] == 3


def test_clear_and_even_answers():
    def ratings(value):
        return [Rating(rater, f"p{i}", "a", "b", value(i)) for i in range(30) for rater in ("x", "y")]

    clear = count_wins(ratings(lambda i: 2 if i % 10 else -1), []).rivalries[0]
    assert (clear.one, clear.losses, clear.wins) == ("a", 54, 6)
    assert clear.interval.high < 0.5
    assert clear.p_value < 1e-4
    even = count_wins(ratings(lambda i: 1 if i % 2 else -1), []).rivalries[0]
    assert even.win_share == 0.5
    assert even.p_value == pytest.approx(1.0)
    none = count_wins(ratings(lambda i: 0), []).rivalries[0]
    assert (none.ties, none.p_value, none.interval.low) == (60, 1.0, 0.5)


def test_many_listeners_of_few_prompts_do_not_make_it_surer():
    few = [Rating(f"rater {r}", f"p{i}", "a", "b", 1 if i < 3 else -1) for r in range(40) for i in range(4)]
    found = count_wins(few, []).rivalries[0]
    assert found.interval.high - found.interval.low > 0.4


def test_three_systems_sum_up():
    ratings = [Rating("x", "p", "a", "b", 1), Rating("x", "p", "b", "c", -2), Rating("x", "q", "c", "a", 0)]
    wins = count_wins(ratings, [])
    assert wins.wins == {"a": 0, "b": 2, "c": 0}
    assert wins.answers == {"a": 2, "b": 2, "c": 2}
    assert wins.rivalries[0].interval is None  # one prompt


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{broken", "is no result file"),
        ('{"test": "t1"}', "is no result file"),
        ('{"test": "t2", "rater": "x", "ratings": []}', "belongs to the test t2"),
        (
            '{"test": "t1", "rater": "x", "ratings": [{"pair": "pair-000", "rating": 3}]}',
            "rating of '3', which must be one of",
        ),
        ('{"test": "t1", "rater": "x", "ratings": [{"pair": "pair-000", "rating": 1e999}]}', "rating of 'inf'"),
        ('{"test": "t1", "rater": "x", "ratings": [{"pair": "pair-000"}]}', "it lacks 'rating'"),
        ('{"test": "t1", "rater": "x", "ratings": [{"pair": "pair-000", "rating": 1.5}]}', "rating of '1.5'"),
        ('["ratings"]', "no result file"),
        ("[" * 100_000, "no result file"),
        ('{"test": "t1", "rater": "x", "ratings": [{"pair": "pair-999", "rating": 1}]}', "of 'pair-999'"),
        ('{"test": "t1", "rater": "x", "ratings": []}', "no answers"),
    ],
)
def test_bad_files(tmp_path, content, said):
    key_of(tmp_path)
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_results([str(tmp_path / "bad.json")], str(tmp_path))


def test_missing_files_and_answers_given_twice(tmp_path):
    with pytest.raises(ValueError, match=r"no listening_key\.json"):
        read_results([], str(tmp_path))
    key_of(tmp_path)
    with pytest.raises(ValueError, match="there is no result file"):
        read_results([str(tmp_path / "none.json")], str(tmp_path))
    first = result_file(tmp_path, "ada", [1, 1])
    (tmp_path / "later.json").write_text((tmp_path / "ada.json").read_text().replace('"rating": 1', '"rating": -2'))
    ratings, warnings = read_results([first, str(tmp_path / "later.json")], str(tmp_path))
    assert [rating.rating for rating in ratings] == [-2, -2]
    assert "answered in two files" in warnings[0]
