"""What runs on the Ray cluster: one search, from its run's folder and back into it."""
