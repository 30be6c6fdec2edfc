"""Hypothesis without deadlines: how long an example takes says nothing on a busy machine."""

import hypothesis

hypothesis.settings.register_profile("motley", deadline=None)
hypothesis.settings.load_profile("motley")
