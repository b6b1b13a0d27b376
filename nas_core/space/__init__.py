"""Which networks a search chooses from, what each is, and what it costs."""
