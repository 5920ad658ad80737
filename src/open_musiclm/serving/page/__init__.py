"""The page: everything the package can do, to be played with in a browser.

    page.py      Gradio's blocks: the tabs; tabs.py what they share, create.py the first, comparing.py the last
    controls.py  a model's capabilities as controls, and their values as requests
    shelf.py     jobs and what came of them, in memory, under names that cannot be guessed
    routes.py    progress, sound while it is made, files, stop, again: what the cards of page.js ask
    compare.py   two of them blinded, and answers in the form that `open-musiclm evaluate` reads

The cards (page.js) draw waveform and spectrogram, play, and choose regions; nothing is loaded from elsewhere.
"""
