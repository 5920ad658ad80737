"""What `generate` can be asked for besides a text, as arguments of the command and of the pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..given import shown

#: arguments that are handed to the pipeline under their own names
PLAIN = (
    "negative_prompt",
    "guidance_scale",
    "reference_audio",
    "reference_weight",
    "transition_in_s",
    "loop",
    "decode_up_to",
)
#: streams that say something about a piece (tokenizers/attributes), each by its name
ATTRIBUTES = {
    "melody": ("FILE", "a hum, a whistle, a played line or a MIDI file whose tune to follow"),
    "tempo": ("BPM", "beats a minute"),
    "key": ("KEY", 'like "A minor" or "F# major"'),
    "genre": ("NAME", "one that the model knows, or two joined by +"),
    "artist": ("NAME", "one that the model knows, or two joined by +"),
    "timing": ("SECONDS", "length of the whole piece that this is the beginning of"),
    "lyrics": ("TEXT", "to be sung, spread evenly over the piece"),
}


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what else can be asked for", "what a model has no stream for is refused by name (see docs/features.md)"
    )
    group.add_argument("--guidance-scale", type=float, metavar="SCALE", help="lead towards the prompt, 3 say")
    group.add_argument("--negative-prompt", metavar="TEXT", help="lead away from this (with --guidance-scale)")
    group.add_argument(
        "--reference-audio", metavar="FILE", help="a recording to be like, beside or in place of a prompt"
    )
    group.add_argument("--reference-weight", type=float, metavar="W", help="how much of it, 0 to 1 (default: 0.5)")
    group.add_argument("--story", metavar="FILE", help='prompts over time, a line each: "0:15 add drums"')
    group.add_argument(
        "--transition", dest="transition_in_s", type=float, metavar="SECONDS", help="between the parts of a story"
    )
    group.add_argument("--loop", action="store_true", default=None, help="the end runs into the beginning")
    for name, (metavar, text) in ATTRIBUTES.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)
    group.add_argument(
        "--structure-from",
        "--semantic-from",
        dest="structure_from",
        metavar="FILE",
        help="keep a recording's tokens of the first stage, and give it the prompt's sound",
    )
    group.add_argument("--keep", metavar="STREAM", help="of that recording, the tokens of this stream instead")
    group.add_argument(
        "--decode-up-to", metavar="STREAM", help="decode the codes up to this stream, and make none behind it: a draft"
    )
    group.add_argument("--unconditional", action="store_true", help="ask for nothing: anything that the stages make")
    group.add_argument("--save-tokens", metavar="FILE", help="keep the tokens too (.safetensors), to go on from")
    group.add_argument("--from-tokens", metavar="FILE", help="go on from tokens that were kept: the same, then more")


def understand_prompts(args: argparse.Namespace) -> list[Any]:
    """The prompts as they are meant: texts, mixtures ("0.7 * strings + 0.3 * file.wav"), or one story.

    Raises:
        ValueError: a story beside other prompts, or one that cannot be read.
    """
    from ..pipelines.mixtures import parse_mixture
    from ..pipelines.story import parse_story, read_story

    transition = args.transition_in_s or 0.0
    if args.story is not None:
        if args.prompts:
            raise ValueError("Pass prompts or --story, one of the two.")
        return [read_story(args.story, transition)]
    stories = [parse_story(prompt, transition) for prompt in args.prompts]
    if any(story is not None for story in stories):
        if len(args.prompts) > 1:
            raise ValueError("A story is made by itself; pass it as the only prompt.")
        return stories
    return [parse_mixture(prompt) or prompt for prompt in args.prompts]


def request_arguments(args: argparse.Namespace, pipe: Any) -> dict[str, Any]:
    """Keyword arguments of the pipeline for what was asked for."""
    from ..pipelines.sidecar import load_tokens

    asked = {name: getattr(args, name) for name in PLAIN if getattr(args, name) is not None}
    for name in ATTRIBUTES:
        value = getattr(args, name)
        if value is not None:
            asked[name] = _seconds(name, value) if name == "timing" else value
    if args.from_tokens is not None:
        asked["beginnings"] = load_tokens(args.from_tokens, pipe)
    if args.structure_from is not None:
        from ..pipelines.recordings import kept_streams

        asked |= kept_streams(pipe, pipe.recording(args.structure_from), args.keep, args.duration)
    elif args.keep is not None:
        raise ValueError("--keep says what to keep of the recording of --structure-from; pass that too.")
    if args.save_tokens is not None:
        asked["return_tokens"] = True
    return asked


def _seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--{name} must be a number of seconds, got {shown(text)}.") from None


def check_requests(args: argparse.Namespace) -> None:
    """Refuse what can be refused before a model is loaded."""
    for name in ("reference_audio", "melody", "structure_from", "from_tokens", "story"):
        value = getattr(args, name)
        if value is not None and not Path(value).is_file():
            raise ValueError(f"--{name.replace('_', '-')}: there is no file {value!r}.")
    if args.save_tokens is not None and Path(args.save_tokens).suffix != ".safetensors":
        raise ValueError(f"--save-tokens writes a .safetensors file, got {args.save_tokens!r}.")
    asked = (args.prompts, args.story, args.reference_audio, args.structure_from, args.from_tokens)
    if args.unconditional and (any(asked) or any(getattr(args, name) for name in ATTRIBUTES)):
        raise ValueError("--unconditional asks for nothing; leave the rest out, or it.")
    if not args.unconditional and not any(asked) and not any(getattr(args, name) for name in ATTRIBUTES):
        raise ValueError('say what the music should be like: open-musiclm generate "a calm piano melody"')
