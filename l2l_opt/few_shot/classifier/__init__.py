"""A user's own few labelled examples: an ensemble of students, judged by cross-validation."""
