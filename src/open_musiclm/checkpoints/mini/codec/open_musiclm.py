"""Names the library of this component for diffusers (pip install open-musiclm); there is no code here."""

if __name__ in ("__main__", "open_musiclm"):
    raise SystemExit("Python runs in the folder of a model and found this file in place of the package: use another folder.")

import open_musiclm


def __getattr__(name):
    return getattr(open_musiclm, name)
