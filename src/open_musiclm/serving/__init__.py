"""A model that others ask for music: a queue before it, HTTP and a page in front.

    request (requests.py) ── Engine (engine.py): one thread owns the model, batches what goes together ──→ Made
         ↑ JSON, uploads (http.py, sounds.py)     work.py: what a request means to the pipeline
         ↑ the page (page/)                       capabilities.py: what the pipeline can be asked for

`open-musiclm serve` and `open-musiclm app` start it (cli/serve.py, cli/app.py); docs/serving.md says what it promises.
"""
