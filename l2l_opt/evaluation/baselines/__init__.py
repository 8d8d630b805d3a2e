"""What a rule is compared with: optimizers tuned on seeds of their own."""
