"""What a user takes home."""
