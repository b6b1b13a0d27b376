"""How many cases tests try: some in `make test`, four times as many in `make proofs`, and new ones in exploration."""

from hypothesis import settings

THOROUGH = settings.get_current_profile_name() != "repeatable"


def some(examples: int) -> int:
    """`examples`, or a quarter of them in `make test`."""
    return examples if THOROUGH else -(-examples // 4)
