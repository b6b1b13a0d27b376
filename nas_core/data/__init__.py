"""Images: found, read, checked, divided and augmented."""
