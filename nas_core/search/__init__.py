"""The method: λ, what of them lives, the press down to a budget, and the loop."""
