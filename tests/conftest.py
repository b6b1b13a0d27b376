"""What all tests share."""

import os

from hypothesis import settings

# Two processes of tests share two cores: more threads than that make every one of them wait for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, so that a failure is the change's doing; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
