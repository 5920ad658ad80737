"""What it costs, against what it must cost. Not part of the test run; each prints the tables of one run.

    python -m tests.benchmarks.generation --size small --dtype float32 --original path/to/open-musiclm
    python -m tests.benchmarks.generation --size large --dtype bfloat16 --device cuda --musicgen small medium
    python -m tests.benchmarks.training --size large --device cuda --original path/to/open-musiclm
    python -m tests.benchmarks.tokenizing --original path/to/open-musiclm
    python -m tests.benchmarks.whole_command --duration 10
    python -m tests.benchmarks.memory
    python -m tests.benchmarks.patterns --folder work/
    python -m tests.benchmarks.guidance --folder work/

Run from the root of the repository. Weights are random, as the cost of a step does not depend on them, but in the
last two: they train small stages on a small corpus, and print how good they are too.
"""
