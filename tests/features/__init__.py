"""Every feature on the model in the box, each with a number from outside the model and what chance gives beside it.

    python -m tests.features                     all of them
    python -m tests.features melody loop         some
    python -m tests.features --model my-musiclm  on another pipeline

A feature is a module here with `run(pipe) -> list[Row]`. No figure is the model's own CLAP: levels, pitches, tempos, keys,
chroma and seams are measured on the audio.
"""
