"""What accepts, stores, schedules and shows searches."""
