"""What is measured of an unroll or of a rule."""
