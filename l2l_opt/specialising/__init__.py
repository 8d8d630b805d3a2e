"""Make a rule better on one's own kind of task: meta-train it there for some minutes, and tell what that has bought."""
