"""The command l2l-opt: thin click commands, loaded when they are called."""
