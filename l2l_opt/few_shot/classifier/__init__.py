"""A user's own few labelled examples: an ensemble of students, evaluated by cross-validation."""
