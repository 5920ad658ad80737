"""Every feature on the model in the box, each with a number from outside the model and what chance gives beside it.

    python -m tests.features                     all of them
    python -m tests.features melody loop         some
    python -m tests.features --model my-musiclm  on another pipeline

A feature is a module here with `run(pipe)`, which gives rows. Levels, pitches, tempos, keys, chroma, labels and seams are
measured on the audio, by what also hears real clips (hearing.py); where a figure is the model's own CLAP, its row says so. A
row holds if it is more than luck would give: by two standard errors where it is a mean of many clips.
"""
