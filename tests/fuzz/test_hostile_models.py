"""Items 2, 3 and 4: saved models, pipelines and checkpoints damaged, or made by an enemy: whole, or refused; no code runs."""

import contextlib
import io
import json
import pickle
import pickletools
import resource
import shutil
import zipfile

import numpy as np
import pytest
import torch
from goldens import FILES, GOLDENS
from sklearn.cluster import KMeans
from tally import Tally, damaged, damaged_json, no_questions, pick, seeded
from tiny import tiny_pipeline
from transformers import ClapModel, EncodecModel

from open_musiclm import ClapQuantizer, MusicLMCoarseModel, MusicLMPipeline, SemanticQuantizer
from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.checkpoint_files import read_state_dict
from open_musiclm.conversion.original_config import read_original_config
from open_musiclm.conversion.quantizer_files import read_kmeans_centroids, read_rvq_codebooks
from open_musiclm.hub.reading import all_finite, read_pretrained
from open_musiclm.models.configuration import SpectralCodecConfig
from open_musiclm.models.spectral_codec import SpectralCodecModel

GOLDEN = GOLDENS / "conv_continuous"
MODELS = {
    "coarse_model": MusicLMCoarseModel,
    "clap_quantizer": ClapQuantizer,
    "semantic_quantizer": SemanticQuantizer,
    "codec": EncodecModel,
    "clap": ClapModel,
    "spectral": SpectralCodecModel,
}
CHECKPOINTS = {
    FILES["coarse"]: read_state_dict,
    "clap.rvq.950_no_fusion.pt": read_rvq_codebooks,
    "kmeans_10s_no_fusion.joblib": read_kmeans_centroids,
    "model_config.json": read_original_config,
}


def use(component: str, model) -> None:
    """What is read can be used, or says why not."""
    assert all(all_finite(parameter) for parameter in model.parameters()), "values that are no numbers"
    if component == "coarse_model":
        tokens = {
            s.argument: torch.zeros(1, 1 if s.frame_rate is None else 4, s.num_codebooks, dtype=torch.long)
            for s in model.streams[:-1]
        }
        tokens = {name: rows[..., 0] if rows.shape[-1] == 1 else rows for name, rows in tokens.items()}
        made = model.generate(2, generator=torch.Generator().manual_seed(0), **tokens)
        assert made.shape[:2] == (1, 2)
    elif component == "spectral":
        codes = torch.zeros(1, 1, model.config.num_codebooks, 3, dtype=torch.long)
        assert torch.isfinite(model.decode(codes, [None]).audio_values).all()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    torch.manual_seed(0)
    small = SpectralCodecConfig(
        sampling_rate=8000, fft_size=64, fft_hop=16, hidden_size=16, codebook_size=16, codebook_dim=8, num_codebooks=2
    )
    SpectralCodecModel(small).save_pretrained(folder / "spectral")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_damaged_models(saved, tmp_path, number):
    tally = Tally("3 models damaged")
    for component, model_class in MODELS.items():
        for index in range(number(10, 400)):
            random = seeded(index)
            folder = shutil.copytree(saved / component, tmp_path / f"{component}-{index}")
            file = folder / ("config.json" if index % 2 else "model.safetensors")
            file.write_bytes((damaged_json if index % 2 else damaged)(file.read_bytes(), random))
            tally.attempt(
                (component, index),
                lambda component=component, folder=folder, model_class=model_class: use(
                    component, read_pretrained(model_class, folder)
                ),
            )
            shutil.rmtree(folder)
    tally.finish()


# ------------------------------------------------------------------- code of others

EVIL = 'open({marker!r}, "w").write("it ran")\nfrom transformers import AutoModel as Evil\nMusicLMPipeline = Evil\n'
CODE = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", None],
    "AutoProcessor": "evil.Evil",
}
SETTINGS = {
    "auto_map": CODE,
    "custom_pipelines": {"x": {"impl": "evil", "pt": ["AutoModel"]}},
    "_attn_implementation": "someone/kernel",
    "attn_implementation": "someone/kernel:evil",
    "transformers_weights": "../evil.bin",
    "audio_tokenizer": "someone/codec",
    "architectures": ["Evil"],
    "tokenizer_class": "evil.Evil",
    "processor_class": "EvilProcessor",
    "feature_extractor_type": "EvilExtractor",
    "model_type": "evil",
    "quantization_config": {"quant_method": "evil", "modules_to_not_convert": [1]},
    "_class_name": ["evil", "Evil"],
    "_name_or_path": "someone/else",
    "dtype": "evil",
    "torch_dtype": "os.system",
    "text_config": {"auto_map": CODE, "_attn_implementation": "someone/kernel"},
}  # fmt: skip
CLASSES = (["evil", "Evil"], ["pipeline", "MusicLMPipeline"], ["os", "system"], ["open_musiclm.cli", "main"], ["transformers", "pipeline"],
           ["torch", "load"], ["open_musiclm", "MusicLMFineModel"], ["transformers", "AutoModel"], ["builtins", "eval"], [None, "x"],
           ["transformers", "_Evil"], "x", {}, [["a"], "b"], ["open_musiclm", "__class__"])  # fmt: skip


def spoil(folder, random) -> None:
    """One to three files of a pipeline ask for code, classes or files that are somebody else's."""
    for _ in range(random.integers(1, 4)):
        paths = sorted(path for path in folder.rglob("*.json") if path.name not in ("vocab.json", "tokenizer.json"))
        path = paths[0] if random.random() < 0.3 else pick(random, paths)
        path = folder / "model_index.json" if random.random() < 0.3 else path
        table = json.loads(path.read_text())
        if path.name == "model_index.json" and random.random() < 0.7:
            table[pick(random, [*table, "new_part"])] = pick(random, CLASSES)
        else:
            inner = table
            while random.random() < 0.3 and any(isinstance(value, dict) for value in inner.values()):
                inner = pick(random, [value for value in inner.values() if isinstance(value, dict)])
            name = pick(random, list(SETTINGS))
            inner[name] = SETTINGS[name]
        path.write_text(json.dumps(table))


@pytest.mark.filterwarnings("ignore")
def test_pipelines_that_ask_for_code(saved, tmp_path, number):
    tally = Tally("2 pipelines that ask for code")
    marker = tmp_path / "marker"

    def load(folder):
        with no_questions() as asked:
            try:
                pipe = MusicLMPipeline.from_pretrained(folder)
                assert type(pipe) is MusicLMPipeline, f"a {type(pipe)}"
            finally:
                assert not asked, f"asked: {asked[0]!r}"
                assert not marker.exists(), "code of the repository ran"

    for index in range(number(8, 500)):
        folder = shutil.copytree(saved, tmp_path / f"pipeline-{index}")
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            for name in ("evil.py", "pipeline.py", "open_musiclm.py"):
                (place / name).write_text(EVIL.format(marker=str(marker)))
        spoil(folder, seeded(index))
        tally.attempt(index, lambda folder=folder: load(folder))
        marker.unlink(missing_ok=True)
        shutil.rmtree(folder)
    tally.finish()


# ------------------------------------------------------------------- checkpoints of the original


def test_damaged_checkpoints(tmp_path, number):
    tally = Tally("3 checkpoints damaged", (CheckpointError,), 1100)
    for name, reader in CHECKPOINTS.items():
        content = (GOLDEN / name).read_bytes()
        for index in range(number(30, 2000)):
            change = damaged_json if name.endswith(".json") else damaged
            (tmp_path / name).write_bytes(change(content, seeded(index)))
            tally.attempt((name, index), lambda reader=reader, file=tmp_path / name: reader(file))
    tally.finish()


def test_a_bit_that_flips_in_a_checkpoint_is_never_converted(tmp_path):
    """Wherever it is: refused, or (in the archive's padding) the very same tensors."""
    file = FILES["coarse"]
    content, random = (GOLDEN / file).read_bytes(), seeded(0)
    expected = torch.load(GOLDEN / file, weights_only=True)
    for position in random.integers(len(content), size=60):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        (tmp_path / file).write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            read = read_state_dict(tmp_path / file)
            assert read.keys() == expected.keys()
            assert all(torch.equal(read[name], expected[name]) for name in expected)


NAMES = (b"numpy.core.multiarray\n_reconstruct\n", b"numpy\nndarray\n", b"numpy\ndtype\n", b"sklearn.cluster._kmeans\nKMeans\n",
         b"joblib.numpy_pickle\nNumpyArrayWrapper\n", b"torch._utils\n_rebuild_tensor_v2\n", b"collections\nOrderedDict\n",
         b"torch\nFloatStorage\n", b"os\nsystem\n", b"builtins\neval\n", b"_codecs\nencode\n", b"copyreg\n_reconstructor\n")  # fmt: skip
#: how the argument of an opcode is written
ARGUMENTS = {
    "uint1": lambda r: r.bytes(1), "uint2": lambda r: r.bytes(2), "int4": lambda r: int(r.integers(-5, 2**31)).to_bytes(4, "little", signed=True),
    "uint4": lambda r: int(pick(r, (0, 3, 2**31, 2**32 - 1))).to_bytes(4, "little"), "uint8": lambda r: int(pick(r, (0, 9, 2**40, 2**63))).to_bytes(8, "little"),
    "stringnl": lambda r: b"'" + b"x" * int(r.integers(9)) + b"'\n", "stringnl_noescape": lambda r: b"7\n", "decimalnl_short": lambda r: b"12\n",
    "decimalnl_long": lambda r: b"9" * int(r.integers(1, 6000)) + b"L\n", "floatnl": lambda r: b"1e999\n", "unicodestringnl": lambda r: b"\\ud800x\n",
    "float8": lambda r: r.bytes(8), "stringnl_noescape_pair": lambda r: pick(r, NAMES),
}  # fmt: skip


def random_pickle(random: np.random.Generator, real: bytes) -> bytes:
    """A program of random opcodes, by itself or put into a real one, often with the right depth of the stack."""
    program = io.BytesIO()
    for _ in range(random.integers(1, 60)):
        code = pick(random, pickletools.opcodes)
        program.write(code.code.encode("latin-1"))
        if code.arg is None:
            continue
        if code.arg.name in ARGUMENTS:
            program.write(ARGUMENTS[code.arg.name](random))
        else:  # a length, and so many bytes or fewer
            size = {"1": 1, "2": 2, "4": 4, "8": 8}[code.arg.name[-1]] if code.arg.name[-1].isdigit() else 1
            said = int(pick(random, (0, 3, 9, 255)))
            program.write(said.to_bytes(size, "little") + random.bytes(int(random.integers(said + 1))))
    made = program.getvalue() * int(pick(random, (1, 1, 1, 200)))
    if random.random() < 0.5:
        place = int(random.integers(2, len(real)))
        return real[:place] + made + real[place:]
    return b"\x80\x02" + made + b"."


def in_archive(program: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", bytes(64))
        archive.writestr("x/version", "3\n")
    return target.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_pickles_of_any_program(tmp_path, number):
    tally = Tally("4 pickles of any program", (CheckpointError,), 1100)
    real = pickle.dumps(KMeans(4, n_init=1, random_state=0).fit(np.eye(9)), protocol=2)
    with zipfile.ZipFile(GOLDEN / FILES["coarse"]) as archive:
        stored = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(number(200, 20_000)):
        random = seeded(index)
        program, file = random_pickle(random, real if index % 2 else stored), tmp_path / "x.pt"
        file.write_bytes(in_archive(program) if index % 4 > 1 else program)
        reader = pick(random, (read_kmeans_centroids, read_state_dict, read_rvq_codebooks))
        tally.attempt((reader.__name__, index), lambda reader=reader, file=file: reader(file))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    tally.attempt("memory", lambda: check_growth(grown))
    tally.finish()


def check_growth(kilobytes: int) -> None:
    assert kilobytes < 1_500_000, f"{kilobytes / 1e6:.1f} GB"
