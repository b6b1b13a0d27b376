"""What the REST resources and the pages share: who asks, what is let in, and how a refusal is told."""
