"""Run folders: what a search is told, and what its workers leave, in the storage; none of it is trusted."""
