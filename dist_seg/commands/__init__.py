"""What the commands do once their arguments are parsed; imported only when a command runs."""
