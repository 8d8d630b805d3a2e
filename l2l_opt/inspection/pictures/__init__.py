"""Pictures of unrolls and of rules."""
