"""What the data engine's tests share."""

from hypothesis import settings

# the first example of a test compiles its kernel
settings.register_profile("compiled", deadline=None)
settings.load_profile("compiled")
