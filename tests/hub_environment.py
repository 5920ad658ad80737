"""Points the Hugging Face libraries at a Hub of this process, before they are imported: no test leaves the machine."""

import atexit
import os
import shutil
import tempfile

from local_hub import LocalHub

HUB = LocalHub()
TOKEN = "hf_tester"
HOME = tempfile.mkdtemp(prefix="hf-home-")

os.environ.update(
    HF_ENDPOINT=HUB.url,
    HF_HOME=HOME,
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
    os.environ.pop(name, None)
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
