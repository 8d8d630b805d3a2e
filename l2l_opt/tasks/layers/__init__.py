"""What students are built of."""
