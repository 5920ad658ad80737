"""What judge.py is made of: judges from other people's packages, small classifiers on what they say, and the table.

prompts ── real clips that fit them, the model's outputs, hand-overs (handover.py) ──→ folders of WAVs
folders ── hearing.py: librosa, essentia, basic-pitch, swift-f0 ──→ numbers, in named groups, a clip at a time
numbers ── opinions.py: classifiers fitted on other real clips, checked, the failing ones left out ──→ verdicts
folders ── second_clap.py, sound.py ──→ CLAP score, Fréchet distance, lines, energy above 2 kHz
"""
