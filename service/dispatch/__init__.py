"""From a queued search to its result: claim, launch, follow, finish."""
