"""Names the library of this component for diffusers (pip install open-musiclm); there is no code here."""

import open_musiclm


def __getattr__(name):
    return getattr(open_musiclm, name)
