"""What the recipe of the model in the box writes into its streams is what a request for the same thing becomes."""

import sys
from pathlib import Path

import numpy as np
import pytest

from open_musiclm import TokenStream
from open_musiclm.tokenizers.attributes import find_attribute

sys.path.append(str(Path(__file__).parents[2] / "examples" / "mini"))
from compose import compose, draw_truth, frame_truth
from describe import DESCRIPTIONS, describe


@pytest.mark.parametrize("seed", range(6))
def test_a_clips_ids_are_those_of_a_request_for_it(seed):
    rng = np.random.default_rng(seed)
    score = compose(draw_truth(rng, 10.0), rng)
    truth = score.truth
    said = describe(truth, frame_truth(score, 10.0))
    requests = {
        "tempo": truth.tempo_in_bpm,
        "key": f"{truth.key} {truth.mode}",
        "genre": truth.genre,
        "artist": truth.artist,
        "timing": (truth.total_length_in_s, truth.start_in_s),
    }
    for name, request in requests.items():
        stream = TokenStream(name, optional=True, **DESCRIPTIONS[name])
        ids = find_attribute(name).from_request(request, stream, 10.0)
        assert np.array_equal(ids, said[name]), name
