"""Ray itself: where it runs, how jobs reach it."""
